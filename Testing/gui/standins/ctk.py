"""The widgets of CTK that the panel uses."""

from __future__ import annotations

import enum

import qt
from PySide6 import QtCore, QtWidgets


class ctkCollapsibleButton(qt.QGroupBox):
    """A titled group; its title is the property `text`; what it holds is hidden while it is collapsed."""

    text = QtCore.Property(
        str, lambda self: QtWidgets.QGroupBox.title(self), lambda self, value: QtWidgets.QGroupBox.setTitle(self, value)
    )

    _collapsed = False

    @property
    def collapsed(self) -> bool:
        return self._collapsed

    @collapsed.setter
    def collapsed(self, value: bool) -> None:
        self._collapsed = value
        self.setMaximumHeight(28 if value else 16777215)


class ctkCollapsibleGroupBox(ctkCollapsibleButton):
    """The same; its title is the property `title`."""


class ctkPathLineEdit(qt.QLineEdit):
    """The path is plain text; `filters` say whether its button asks for a file or a folder."""

    class Filters(enum.Flag):
        Dirs = 1
        Files = 2

    QtCore.QFlag(Filters)
    _filters = Filters.Dirs | Filters.Files

    def _set_filters(self, value) -> None:
        self._filters = value

    filters = QtCore.Property(Filters, lambda self: self._filters, _set_filters)

    @property
    def currentPath(self) -> str:
        return QtWidgets.QLineEdit.text(self)

    @currentPath.setter
    def currentPath(self, value: str) -> None:
        QtWidgets.QLineEdit.setText(self, value)
