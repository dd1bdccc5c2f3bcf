"""Sources that runs are loaded from, in the small."""

from __future__ import annotations

from run_folders import header, point

from lightning_costs.storage.run_folder.files import RunFolder


def write(folder, points=(), *, close=True, **head):
    run = RunFolder(folder)
    run.open(header(**head))
    for one in points:
        run.append(one)
    run.flush()
    if close:
        run.close(header(**head))
    else:  # killed: the journal is all there is
        run.abandon()
    return folder


THREE = [point(1), point(2, trigger="evaluate", quality={"val/acc": 0.5}), point(3, trigger="end")]
