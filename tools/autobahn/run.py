#!/usr/bin/env python3
"""Runs Autobahn|Testsuite against the WebSocket echo example and writes the report.

    run.py ECHO-BINARY WORK-FOLDER REPORT [CASES...]

Order: find Python 2.7 (the suite runs on nothing newer), install the suite into WORK-FOLDER, start the example on a free
port, run the suite's fuzzing client, stop the example, write REPORT (Markdown). CASES are patterns such as `9.*`; without
them all run. Ends with 1 if a case failed or did not run, 2 if the suite could not be run.
"""

import datetime
import glob
import json
import os
import platform
import subprocess
import sys
from collections import Counter

HERE = os.path.dirname(os.path.abspath(__file__))
REQUIREMENTS = os.path.join(HERE, "requirements.txt")
AGENT = "ringdesk"
TIMEOUT_S = 3600

SECTIONS = {
    1: "Framing",
    2: "Pings and pongs",
    3: "Reserved bits",
    4: "Opcodes",
    5: "Fragmentation",
    6: "UTF-8",
    7: "Close handling",
    9: "Limits and performance",
    10: "Auto-fragmentation",
    12: "permessage-deflate, payload kinds",
    13: "permessage-deflate, parameters",
}
CORE = ["%d.*" % section for section in SECTIONS if section < 12]
# What a case can come to, in the suite's words; anything else is a failure.
PASSED, LENIENT, INFORMATIONAL = "OK", "NON-STRICT", "INFORMATIONAL"


def stop(sentence):
    print(sentence, file=sys.stderr)
    sys.exit(2)


def python2():
    """A Python 2.7 with pip."""
    home = os.path.expanduser("~/.pyenv/versions/2.7*/bin/python2.7")
    for candidate in [os.environ.get("PYTHON2", ""), "python2.7", *sorted(glob.glob(home))]:
        try:
            asked = subprocess.run([candidate, "-m", "pip", "--version"], capture_output=True, text=True)
        except OSError:
            continue
        if asked.returncode == 0 and "python 2.7" in asked.stdout:
            return candidate
    stop("Python 2.7 with pip is missing: install it (pyenv install 2.7.18), or name it with PYTHON2=/path/to/python2.7.")


def suite(python, work):
    """Installs the suite unless it is there; the environment it runs in."""
    site = os.path.join(work, "site")
    stamp = os.path.join(site, "installed")
    with open(REQUIREMENTS) as file:
        wanted = file.read()
    if not os.path.exists(stamp) or open(stamp).read() != wanted:
        subprocess.run(["rm", "-rf", site], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", site,
                   "-r", REQUIREMENTS]
        if subprocess.run(install).returncode != 0:
            stop("The suite could not be installed.")
        # A namespace package that --target leaves without its marker.
        open(os.path.join(site, "zope", "__init__.py"), "w").close()
        with open(stamp, "w") as file:
            file.write(wanted)
    return dict(os.environ, PYTHONPATH=site, PYTHONDONTWRITEBYTECODE="1")


def run_suite(python, environment, work, echo, cases):
    """All cases against a fresh example; the suite's own index of results, and the line the example printed."""
    out = os.path.join(work, "reports")
    subprocess.run(["rm", "-rf", out], check=True)
    server = subprocess.Popen([echo, "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline().strip()
        if not line:
            stop("The example did not start.")
        spec = {"outdir": out, "servers": [{"agent": AGENT, "url": line.split()[0]}], "cases": cases}
        path = os.path.join(work, "spec.json")
        with open(path, "w") as file:
            json.dump(spec, file)
        client = [python, "-m", "autobahntestsuite.wstest", "-m", "fuzzingclient", "-s", path]
        with open(os.path.join(work, "suite.log"), "w") as log:
            subprocess.run(client, env=environment, cwd=work, stdout=log, stderr=log, timeout=TIMEOUT_S)
        if server.poll() is not None:
            stop("The example died; see %s/suite.log for the last case." % work)
    finally:
        server.kill()
        server.wait()
    index = os.path.join(out, "index.json")
    if not os.path.exists(index):
        stop("The suite wrote no report; see %s/suite.log." % work)
    with open(index) as file:
        return json.load(file).get(AGENT, {}), line


def number(case):
    return [int(part) for part in case.split(".")]


def verdict(result):
    """The worse of how the case went and how the connection was closed."""
    order = [PASSED, INFORMATIONAL, LENIENT]
    both = [result["behavior"], result["behaviorClose"]]
    both = [word if word in order else "FAILED" for word in both]
    # How a connection is closed is informational in many cases that are otherwise strict: it does not lower a pass.
    if both[1] == INFORMATIONAL:
        both[1] = PASSED
    return max(both, key=[*order, "FAILED"].index)


def asked_for(python, environment, cases):
    """The ids of all cases that match."""
    program = (
        "import sys, json; from autobahntestsuite.case import Cases, CaseCategories, CaseSubCategories, CaseSetname,"
        " CaseBasename; from autobahntestsuite.caseset import CaseSet;"
        " s = CaseSet(CaseSetname, CaseBasename, Cases, CaseCategories, CaseSubCategories);"
        " print(json.dumps(s.parseSpecCases({'cases': sys.argv[1:]})))"
    )
    asked = subprocess.run([python, "-c", program, *cases], env=environment, capture_output=True, text=True)
    if asked.returncode != 0:
        stop(asked.stderr)
    return json.loads(asked.stdout)


def versions(python, environment):
    names = ["autobahntestsuite", "autobahn", "Twisted"]
    program = "import sys, pkg_resources as p; print(' '.join(p.get_distribution(n).version for n in sys.argv[1:]))"
    said = subprocess.run([python, "-c", program, *names], env=environment, capture_output=True, text=True, check=True)
    python_version = subprocess.run([python, "-c", "import platform; print(platform.python_version())"],
                                    capture_output=True, text=True, check=True).stdout.strip()
    return ["%s %s" % pair for pair in zip(names, said.stdout.split())] + ["Python " + python_version]


def table(verdicts, results):
    columns = [PASSED, LENIENT, INFORMATIONAL, "FAILED"]
    lines = ["| Section | Cases | Passed | Non-strict | Informational | Failed | Seconds |", "|---|---|---|---|---|---|---|"]
    total = Counter()
    for section, name in SECTIONS.items():
        cases = [case for case in verdicts if number(case)[0] == section]
        if not cases:
            continue
        count = Counter(verdicts[case] for case in cases)
        count["cases"] = len(cases)
        count["ms"] = sum(results[case]["duration"] for case in cases if case in results)
        total += count
        lines.append(row("%d %s" % (section, name), count, columns))
    lines.append(row("all", total, columns))
    return lines, total


def row(name, count, columns):
    cells = [name, count["cases"], *(count[column] for column in columns), "%.1f" % (count["ms"] / 1000)]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def report(verdicts, results, about, said):
    lines = ["# WebSocket: what Autobahn|Testsuite found", "",
             "Written by `make autobahn`; not edited by hand. The suite's fuzzing client drives",
             "`engine/uring/examples/websocket_echo.rs`: the shipped `ws::Socket` (the front's own), reactor and io_uring",
             "kernel, with an echo where the shard would be. Any failed case fails the target.", ""]
    lines += ["- %s" % fact for fact in about] + ["- the example " + said.split(" ", 1)[1], ""]
    summary, total = table(verdicts, results)
    lines += summary
    odd = [case for case in verdicts if verdicts[case] != PASSED]
    lines += ["", "## Cases that did not simply pass", ""]
    if odd:
        lines += ["| Case | Behaviour | Close | Code sent by the echo |", "|---|---|---|---|"]
        for case in odd:
            result = results.get(case, {})
            cells = [case] + [str(result.get(key, "did not run")) for key in ["behavior", "behaviorClose", "remoteCloseCode"]]
            lines.append("| " + " | ".join(cells) + " |")
    else:
        lines.append("None.")
    slow = [case for case in verdicts if number(case)[0] == 9 and case in results]
    if slow:
        lines += ["", "## Limits and performance, milliseconds", "",
                  "Messages of up to 16 MiB in one frame, in fragments, and in chops of a few bytes; the client is Python and",
                  "shares the machine.", "", "| Cases | Milliseconds |", "|---|---|"]
        for group in sorted({case.rsplit(".", 1)[0] for case in slow}, key=number):
            spent = [str(results[case]["duration"]) for case in slow if case.rsplit(".", 1)[0] == group]
            lines.append("| %s.1 to %s.%d | %s |" % (group, group, len(spent), ", ".join(spent)))
    return "\n".join(lines) + "\n", total


def main():
    if len(sys.argv) < 4:
        stop(__doc__)
    echo, work, path = (os.path.abspath(argument) for argument in sys.argv[1:4])
    patterns = sys.argv[4:] or CORE
    os.makedirs(work, exist_ok=True)
    python = python2()
    environment = suite(python, work)
    cases = asked_for(python, environment, patterns)
    results, said = run_suite(python, environment, work, echo, cases)
    verdicts = {case: verdict(results[case]) if case in results else "FAILED" for case in sorted(cases, key=number)}
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    about = [today] + versions(python, environment) + ["Linux " + platform.release().split("-")[0]]
    text, total = report(verdicts, results, about, said)
    with open(path, "w") as file:
        file.write(text)
    print("\n".join(text.splitlines()[:40]))
    print("autobahn: %d passed, %d failed" % (total["cases"] - total["FAILED"], total["FAILED"]))
    sys.exit(1 if total["FAILED"] or not total["cases"] else 0)


main()
