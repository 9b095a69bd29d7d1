"""`qt` as PythonQt gives it to modules of 3D Slicer, over PySide6: Qt properties are Python attributes."""

from __future__ import annotations

import ctypes
import sys
import xml.etree.ElementTree as ElementTree

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

if sys.version_info < (3, 12):
    # PySide loses a reference to one of these with each signal, and Python 3.11, which counts them, ends with the last.
    for _each in (None, True, False):
        ctypes.c_ssize_t.from_address(id(_each)).value += 10**9

application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(sys.argv[:1])
_classes: dict[type, type] = {}
# Qt asks for these by methods that a subclass may replace, and would take a property for such a one, endlessly.
_ASKED_FOR = ("sizeHint", "minimumSizeHint")


def _property(name: str) -> property:
    return property(
        lambda self: QtCore.QObject.property(self, name),
        lambda self, value: QtCore.QObject.setProperty(self, name, value),
    )


def python_qt(kind: type) -> type:
    """A subclass whose Qt properties are attributes."""
    if kind not in _classes:
        meta = kind.staticMetaObject
        names = [meta.property(index).name() for index in range(meta.propertyCount())]
        left_out = (*_ASKED_FOR, *(["singleShot"] if kind is QtCore.QTimer else []))
        members = {name: _property(name) for name in names if name not in left_out}
        _classes[kind] = type(kind.__name__, (kind,), {**members, "name": _property("objectName")})
    return _classes[kind]


class QUiLoader(QtUiTools.QUiLoader):
    """Makes those subclasses and the stand-ins of ctk and Slicer; does the file's connections by name."""

    def createWidget(self, kind: str, parent: QtWidgets.QWidget | None = None, name: str = ""):
        import ctk
        import slicer

        found = next((getattr(each, kind) for each in (ctk, slicer) if hasattr(each, kind)), None)
        widget = (found or python_qt(getattr(QtWidgets, kind)))(parent)
        QtCore.QObject.setObjectName(widget, name)
        return widget

    def load(self, file: QtCore.QFile, parent: QtWidgets.QWidget | None = None):
        root = ElementTree.parse(QtCore.QFile.fileName(file)).getroot()
        connections = root.find("connections")
        root.remove(connections)  # Qt's loader finds no signals of Python with C++ arguments
        filters = _taken(root, "filters")  # nor flags of Python
        content = QtCore.QBuffer()
        content.setData(ElementTree.tostring(root))
        widget = super().load(content, parent)
        for each in connections:
            sender, signal, receiver, slot = (each.find(part).text for part in ("sender", "signal", "receiver", "slot"))
            source = _named(widget, sender)
            getattr(source, signal.split("(")[0]).connect(getattr(_named(widget, receiver), slot.split("(")[0]))
        for name, value in filters.items():
            _named(widget, name).filters = value
        return widget


def _taken(root: ElementTree.Element, name: str) -> dict[str, str]:
    """A property of widgets by their names, taken out of the file."""
    found = {}
    for widget in root.iter("widget"):
        for each in widget.findall(f"property[@name='{name}']"):
            widget.remove(each)
            found[widget.get("name")] = "".join(each.itertext()).strip()
    return found


def _named(widget: QtWidgets.QWidget, name: str) -> QtCore.QObject:
    own = QtCore.QObject.objectName(widget) if not isinstance(widget.objectName, str) else widget.objectName
    return widget if own == name else widget.findChild(QtCore.QObject, name)


def __getattr__(name: str):
    for module in (QtWidgets, QtGui, QtCore):
        if hasattr(module, name):
            found = getattr(module, name)
            is_object = isinstance(found, type) and issubclass(found, QtCore.QObject)
            return python_qt(found) if is_object else found
    raise AttributeError(name)
