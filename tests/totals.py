# SPDX-License-Identifier: MIT
"""Adds up what tests/run.sh ran: `totals.py FOLDER` with NAME.xml (JUnit) and NAME.status (exit status) for each part.

Prints each failure and each skipped test with its reason, then one line `N passed, N failed, N skipped`.
The exit status is 0 when something passed and nothing failed.
"""
import ast
import pathlib
import re
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field

CMOCKA_LINE = re.compile(r"^\[ +(RUN|OK|FAILED|ERROR|SKIPPED) +\] +(\S+)")


@dataclass
class Totals:
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add(self, name: str, verdict: str, reason: str = "") -> None:
        if verdict == "passed":
            self.passed += 1
        else:
            getattr(self, verdict).append(f"{name}: {reason}" if reason else name)


def add_cmocka(totals: Totals, program: str, output: str) -> int:
    """Counts the tests that a cmocka program ran; returns how many of them failed."""
    running, said, failed, seen = None, [], 0, set()
    for line in output.splitlines():
        match = CMOCKA_LINE.match(line)
        if not match or match.group(2) == "---":  # [  ERROR   ] --- 0x1 != 0x2
            said.append(line.strip())
            continue
        what, name = match.groups()
        if what == "RUN":
            running, said = name, []
        elif name == running and name not in seen:  # the closing summary names failures once more
            seen.add(name)
            reason = " ".join(text for text in said if text)
            verdict = {"OK": "passed", "SKIPPED": "skipped"}.get(what, "failed")
            failed += verdict == "failed"
            totals.add(f"{program}.{name}", verdict, "" if verdict == "passed" else reason or "no reason given")
            running = None
    if running is not None:
        totals.add(f"{program}.{running}", "failed", "the program ended inside this test")
        failed += 1
    return failed


def add_case(totals: Totals, case: ElementTree.Element) -> None:
    """One <testcase>: a whole cmocka program from ctest, or one pytest test."""
    name = case.get("name", "?")
    problem = case.find("failure") if case.find("failure") is not None else case.find("error")
    skip = case.find("skipped")
    output = case.findtext("system-out") or ""
    if re.search(r"^\[ +RUN +\]", output, re.MULTILINE):
        failed = add_cmocka(totals, name, output)
        if problem is not None and failed == 0:
            totals.add(name, "failed", "the program failed outside its tests")
        return
    where = case.get("classname", "")
    label = f"{where}.{name}" if where and where != name else name
    if problem is not None:
        totals.add(label, "failed", (problem.get("message") or "").split("\n")[0][:200])
    elif skip is not None:
        reason = skip.get("message") or "no reason given"
        if reason == "collection skipped":  # a whole file; the reason is the last of (path, line, reason)
            reason = ast.literal_eval(skip.text)[-1].removeprefix("Skipped: ")
        totals.add(label, "skipped", reason)
    else:
        totals.add(label, "passed")


def add_part(totals: Totals, status_file: pathlib.Path) -> None:
    """One part of the run. A part that ended badly without naming a failed test counts as one failure."""
    status = int(status_file.read_text())
    report = status_file.with_suffix(".xml")
    before = len(totals.failed)
    try:
        for case in ElementTree.parse(report).iter("testcase"):
            add_case(totals, case)
    except (OSError, ElementTree.ParseError) as problem:
        totals.add(status_file.stem, "failed", f"no readable report ({problem})")
    if status != 0 and len(totals.failed) == before:
        meaning = "no test was found" if status == 5 else f"exit status {status} without a failed test"
        totals.add(status_file.stem, "failed", meaning)


def main() -> int:
    totals = Totals()
    for status_file in sorted(pathlib.Path(sys.argv[1]).glob("*.status")):
        add_part(totals, status_file)
    print()
    for text in totals.skipped:
        print(f"skipped  {text}")
    for text in totals.failed:
        print(f"FAILED   {text}")
    if totals.passed == 0 and not totals.failed:
        print("no test ran")
    print(f"{totals.passed} passed, {len(totals.failed)} failed, {len(totals.skipped)} skipped")
    return 0 if totals.passed > 0 and not totals.failed else 1


if __name__ == "__main__":
    sys.exit(main())
