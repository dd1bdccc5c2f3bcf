"""'The Efficiency Misnomer' (Dehghani et al. 2021, arXiv 2110.12894), measured: each of its claims by real training.

A study is one module of this folder: methods to train, seeds, and claims about what they cost.

    python -m examples.paper run table1             train what is not trained yet, then tell which claims held
    python -m examples.paper run table1 --size gpu  the same study, larger, on a CUDA device
    python -m examples.paper tell table1            the claims and a report page, from the runs that are kept here

`docs/paper/` has what came out, and how to turn a study into one of your own model.
"""

from __future__ import annotations

#: The studies, in the order of the paper.
STUDIES = ("fig1", "fig2", "fig4", "table1", "sec21", "sec22", "sec32", "sec32b", "pipeline", "zero")
