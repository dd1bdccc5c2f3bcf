"""`python -m examples.paper`: train a study, tell what came out, keep its runs, draw its pages."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lightning_costs.run.record import RunRecord

from . import STUDIES
from .claims import Results
from .kept import RESULTS, keep, kept
from .study import Study, find_study
from .telling import tell


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.paper", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = argparse.ArgumentParser(add_help=False)
    one.add_argument("study", help=f"one of {', '.join(STUDIES)}, or the dotted name of a module of yours")
    one.add_argument("--size", default="cpu", help="tiny, cpu or gpu (default: cpu)")
    one.add_argument("--out", type=Path, default=Path("paper"), help="where runs and pages go (default: paper)")
    run = verbs.add_parser("run", parents=[one], help="train what is not trained yet, tell which claims held")
    run.add_argument("--seeds", type=int, help="how many trainings of each method")
    run.add_argument("--arm", action="append", default=[], help="only this method (may be given again)")
    run.add_argument("--keep", action="store_true", help="keep the runs, made small, where `tell` and `draw` find them")
    run.add_argument(
        "--least-share",
        type=float,
        default=0.0,
        metavar="S",
        help="train runs again that had less than this share of what the machine's CPUs did meanwhile, say 0.97",
    )
    run.add_argument("--no-report", action="store_true", help="no report page (it needs the `report` extra)")
    verbs.add_parser("tell", parents=[one], help="which claims held, from the runs that are kept; no training")
    every = verbs.add_parser("together", help="a report page over all runs that are kept; no training")
    every.add_argument("--size", default="cpu", help="cpu or gpu (default: cpu)")
    every.add_argument("--out", type=Path, default=Path("paper"), help="where the page goes (default: paper)")
    draw = verbs.add_parser("draw", help="fill in docs/paper/ from the runs that are kept; no training")
    draw.add_argument("studies", nargs="*", help="by default all")
    draw.add_argument("--docs", type=Path, default=Path("docs"), help="the folder of documents (default: docs)")
    asked = parser.parse_args(arguments)

    if asked.verb == "draw":
        from .pages import draw_pages  # charts are loaded for those who draw

        for path in draw_pages(asked.studies or STUDIES, asked.docs):
            print(path)
        return
    if asked.verb == "together":
        from .together import disagreements, together

        compared = together(asked.size)
        if compared is None:
            raise SystemExit(f"no runs of size {asked.size} are kept in {RESULTS}")
        print("\n".join(disagreements(compared)))
        print(f"report: {compared.to_html(asked.out / f'together-{asked.size}.html')}")
        return
    try:
        study = find_study(asked.study)
        runs = _trained(study, asked) if asked.verb == "run" else _kept(study, asked.size)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    results = Results.of(study, runs)
    print(tell(study, results))
    if not getattr(asked, "no_report", False):
        print(f"report: {results.compared.to_html(asked.out / f'{study.name}-{asked.size}.html')}")


def _trained(study: Study, asked: argparse.Namespace) -> list[RunRecord]:
    from .running import run_jobs

    folder = asked.out / f"{study.name}-{asked.size}"
    jobs = study.jobs(asked.size, folder, asked.seeds, asked.arm)
    runs = run_jobs(jobs, asked.study, asked.least_share)
    if asked.keep:
        keep(runs, study, asked.size)
    return runs


def _kept(study: Study, size: str) -> list[RunRecord]:
    runs = kept(study, size)
    if not runs:
        raise ValueError(
            f"no runs of {study.name} at size {size} are kept in {RESULTS}; "
            f"train them: python -m examples.paper run {study.name} --size {size} --keep"
        )
    return runs


if __name__ == "__main__":
    main()
