"""The widgets of CTK that the panel uses."""

from __future__ import annotations

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
    """The path is plain text; the button beside it asks for a folder where `filters` leave out files."""

    filters = "ctkPathLineEdit::AllEntries"

    @property
    def currentPath(self) -> str:
        return QtWidgets.QLineEdit.text(self)

    @currentPath.setter
    def currentPath(self, value: str) -> None:
        QtWidgets.QLineEdit.setText(self, value)
