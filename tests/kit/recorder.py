"""A reporter that remembers."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.finding import Finding
from schemas.sidecar import Sidecar


@dataclass
class Recorder:
    """A reporter that keeps what it was told."""

    samples: list[str] = field(default_factory=list)
    errors: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    steps: int = 0

    def stage(self, name: str, total: int, total_bytes: int = 0) -> None:
        pass

    def step(self, nbytes: int = 0, *, failed: bool = False) -> None:
        self.steps += 1

    def sample(self, sidecar: Sidecar) -> None:
        self.samples.append(sidecar.id)

    def error(self, code: str, path: str, message: str, mend: str) -> None:
        self.errors[path] = (code, message, mend)

    def finding(self, finding: Finding) -> None:
        self.findings.append(finding)

    def close(self) -> None:
        pass

    @property
    def codes(self) -> set[str]:
        """Codes of all findings."""
        return {finding.code for finding in self.findings}
