"""The widgets of CTK that the panel uses."""

from __future__ import annotations

import qt
from PySide6 import QtCore, QtWidgets


class ctkCollapsibleButton(qt.QGroupBox):
    """A titled group; its title is the property `text`."""

    text = QtCore.Property(
        str, lambda self: QtWidgets.QGroupBox.title(self), lambda self, value: QtWidgets.QGroupBox.setTitle(self, value)
    )


class ctkPathLineEdit(qt.QLineEdit):
    """The path is plain text."""

    @property
    def currentPath(self) -> str:
        return QtWidgets.QLineEdit.text(self)

    @currentPath.setter
    def currentPath(self, value: str) -> None:
        QtWidgets.QLineEdit.setText(self, value)
