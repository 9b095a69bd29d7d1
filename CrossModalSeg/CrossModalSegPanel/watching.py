"""Following nodes of the scene for as long as they matter."""


class Watch:
    """Calls back at events of nodes.

    VTKObservationMixin keeps all that was ever observed: images of scenes that are closed would stay in memory.

    Attributes:
        nodes: that are followed now.
    """

    def __init__(self, events, callback) -> None:
        """Nothing is followed yet.

        Args:
            events: of VTK.
            callback: called with the caller and the event.
        """
        self._events, self._callback = events, callback
        self._tags = []
        self.nodes = []

    def follow(self, nodes) -> None:
        """Follow these nodes, and no others any more."""
        if list(nodes) == self.nodes:
            return
        for node, tag in self._tags:
            node.RemoveObserver(tag)
        self.nodes = list(nodes)
        self._tags = [(node, node.AddObserver(event, self._callback)) for node in self.nodes for event in self._events]
