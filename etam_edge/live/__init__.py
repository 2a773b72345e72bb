"""Live sources: the newest frame, statistics of age and frame time, reconnection, and the page in the browser.

- `reader` reads a source in a thread and keeps the newest frame, a queue, or every frame;
- `statistics` counts what a run does, in memory that does not grow;
- `loop` tracks frame after frame, and carries out what viewers ask for;
- `server` shows the run to browsers;
- `run` puts these together.

`etam_edge.live(...)`, the function, is in `etam_edge.workflows.live`.
"""

import sys

from etam_edge import CallableRoom

sys.modules[__name__].__class__ = CallableRoom
