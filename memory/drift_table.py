"""A drift report in words, for the node, the log and the command line."""

from __future__ import annotations

from .drift import APPEARANCE, MEASURES, DriftReport, Hop

WIDTH = 10
"""Characters of a column; the longest heading is "contrast"."""


def drift_table(report: DriftReport, name: str) -> str:
    """Summary and one line per segment of the film called `name`; segments count from 1."""
    lines = [*_summary(report, name), "", _line("segment", [*MEASURES, "seam", "drift"])]
    lines += [_hop_line(hop) for hop in report.hops]
    lines += ["", "against segment 1", _line("segment", list(MEASURES))]
    lines += [
        _line(str(number), [_change(ratios.get(measure)) for measure in MEASURES])
        for number, ratios in enumerate(report.against_first[1:], 2)
    ]
    return "\n".join(lines)


def _summary(report: DriftReport, name: str) -> list[str]:
    segments = len(report.against_first)
    hops = [hop for hop in report.hops if not hop.cut]
    cuts = segments - 1 - len(hops)
    counts = [_count(segments, "segment"), _count(len(hops), "hop"), _count(cuts, "cut")]
    lines = [f"{name}: {', '.join(counts)}"]
    if report.drift_percent is None:
        return [*lines, "no segment continues another one, so there is no drift to measure"]
    measures = ", ".join(f"{measure} {report.by_measure[measure]:.1f}" for measure in APPEARANCE)
    trend = ", ".join(f"{measure} {report.trend[measure]:+.1f}" for measure in APPEARANCE)
    lines += [
        f"drift per hop {report.drift_percent:.1f} % ({measures})",
        f"trend per hop in % ({trend})",
    ]
    if report.worst_seam is not None and report.worst_seam_index is not None:
        lines.append(
            f"worst seam {report.worst_seam:.2f} into segment {report.worst_seam_index + 1} "
            "(1.00 does not show)"
        )
    return lines


def _hop_line(hop: Hop) -> str:
    cells = [_change(hop.ratios.get(measure)) for measure in MEASURES]
    seam = "cut" if hop.cut else "" if hop.seam is None else f"{hop.seam:.2f}"
    drift = "" if hop.drift_percent is None else f"{hop.drift_percent:.1f} %"
    return _line(f"{hop.index} > {hop.index + 1}", [*cells, seam, drift])


def _line(first: str, cells: list[str]) -> str:
    return "".join([first.ljust(WIDTH), *(cell.rjust(WIDTH) for cell in cells)]).rstrip()


def _change(ratio: float | None) -> str:
    return "" if ratio is None else f"{100.0 * (ratio - 1.0):+.1f} %"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
