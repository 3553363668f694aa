"""The tape player as a notebook widget: JupyterLab, VS Code, marimo. Needs the extra `notebook`, which is anywidget."""

from typing import Any

import anywidget
import traitlets

from bptt.tape import player


class Player(anywidget.AnyWidget):
    """The player of one tape; what the reader looks at and what Python sets are the same three traits.

    cursor     the step, counted from 1 as on the page and on the sheet
    side       "A" or "B"
    selection  the number that is asked about, as the hash of a page writes it, units from 1: "da,3" is unit 3 of ∂a at
               the cursor, "dW_hh,2,3" one entry of a gradient, "" nothing

    Where a notebook is exported and no widget can run, a page with the same tape stands in its place.
    """

    _esm = player.bundle("widget.js")
    _tape = traitlets.Dict().tag(sync=True)
    cursor = traitlets.Int(1).tag(sync=True)
    side = traitlets.Enum(("A", "B"), "A").tag(sync=True)
    selection = traitlets.Unicode("").tag(sync=True)

    def __init__(
        self, tape: player.Recorded, *, row: player.Row = 0, first: int | None = None, steps: int | None = None
    ) -> None:
        """Arguments after the tape are those of `bptt.tape.player.data`."""
        data = player.data(tape, row=row, first=first, steps=steps)
        self._page = player.html_of(data)
        super().__init__(_tape=player.as_binary(data), cursor=data["first"] + 1)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        made = super()._repr_mimebundle_(**options)
        if made is None:
            return None
        data, metadata = made if isinstance(made, tuple) else (made, {})
        return data | {"text/html": player.frame(self._page)}, metadata
