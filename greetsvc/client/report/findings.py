"""What there is to say about an outcome besides the greeting itself: the path, likely causes, replicas. Pure."""

from __future__ import annotations

from attrs import define, field

from greetsvc.client.report.causes import likely, likely_ending
from greetsvc.client.result import GreetFailed, Greeting
from greetsvc.client.stats import Tally

__all__ = ["Findings", "summary"]


@define
class Findings:
    """Says each finding of a run once; what matters is that it is so, not that it is still so."""

    said: set[str] = field(factory=set)

    def of(self, outcome: Greeting | GreetFailed) -> list[str]:
        """What is new in this outcome, a line each."""
        if isinstance(outcome, GreetFailed):
            found = {cause: cause for cause in likely(outcome)}
        else:
            found = (
                {remark.key: remark.text for remark in outcome.path.remarks if remark.notable} if outcome.path else {}
            )
            found |= {cause: cause for cause in likely_ending(outcome.closed)}
        new = [text for key, text in found.items() if key not in self.said]
        self.said.update(found)
        return new


def summary(tally: Tally) -> list[str]:
    """What a run has found, a line each: repeated SYNs, replicas, flows."""
    lines = []
    late = [
        f"{len(took)} with {syns} SYNs ({sum(took) / len(took):.3f} s)" for syns, took in sorted(tally.late.items())
    ]
    if late:
        lines.append(f"connected late: {', '.join(late)}: packets are lost")
    if len(tally.replicas) > 1:
        total = tally.replicas.total()
        shares = [f"{name} {100 * count / total:.3g} % ({count})" for name, count in tally.replicas.most_common()]
        lines.append(f"{len(shares)} replicas: {', '.join(shares)}")
    return lines + (tally.flows.words() if tally.flows else [])
