"""Throws broken and odd specs at the command line and watches what comes back.

    python tests/fuzz.py --files 200000 --seed 1

Half of the files are mutations of all specs in the repository, half are generated
from the grammar. Each goes through `einc check` or `einc analyze` or `einc codegen`,
in this process, with random features, or is laid out as by `einc fmt`. A failure is a traceback, a wrong exit status
(0 without, 1 with an error diagnosed), JSON that is none, generated code that does
not compile, or more than a few seconds. Failing files are printed whole.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import typer
from faults import WRITTEN

from einc.cli import app
from einc.errors import SpecError
from einc.layout import laid_out
from einc.parser import parse
from einc.source import Source

ROOT = Path(__file__).parent.parent
COMMAND = typer.main.get_command(app)
SLOW, SLOW_ELIMINATION = 5.0, 60.0
"""Seconds that no file may take, nor one whose rank is found by elimination; a loaded
machine is slower than its limits."""


def corpus() -> list[str]:
    """All specs of the repository, those in pages and tables too."""
    specs = [p.read_text() for p in sorted(ROOT.glob("e*/**/*.ein"))]
    for text in (sample.text for sample in WRITTEN):
        whole = re.search(r"\bstructure\b", text)
        specs.append(text if whole else f"structure s {{\n{text}\n}}\n")
    for page in sorted(ROOT.glob("einc/explanations/*.md")):
        specs += re.findall(r"```ein.*?\n(.*?)```", page.read_text(), re.S)
    return specs


ATOMS = ["d_in", "d_out", "d", "2", "1/2", "rank", "3.5", "0", "1", "9", "k", "12"]
WORDS = """structure { } ( ) [ ] , = += ~ * / + - ^ y x A B W g a f e r i o rank top
route normalize all min max sqrt "text" # d_in d_out d 1 2 1/2 0 999999999999 ( ) ü \t
\r\n ; . ' \\ \x00 weight for None __ _ é 2147483648 1e9""".split(" ")


def mutated(rng: random.Random, text: str) -> str:
    """A spec after a few edits of tokens, characters or lines."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        tokens = re.findall(r"\s+|\w+|.", text, re.S) or [""]
        at = rng.randrange(len(tokens))
        other = rng.randrange(len(tokens))
        match rng.randrange(7):
            case 0:
                del tokens[at]
            case 1:
                tokens.insert(at, rng.choice(WORDS))
            case 2:
                tokens[at] = rng.choice(WORDS)
            case 3:
                tokens[at], tokens[other] = tokens[other], tokens[at]
            case 4:
                tokens.insert(at, tokens[other])
            case 5:
                low, high = sorted((at, other))
                tokens[at:at] = tokens[low : min(high, low + 40)]
            case 6:
                tokens = tokens[: at + 1]
        text = "".join(tokens)
    return text


def expression(rng: random.Random, depth: int = 0) -> str:
    """A size expression, mostly sane."""
    kind = rng.randrange(8) if depth < 4 else 0
    if kind < 3:
        return rng.choice(ATOMS)
    if kind == 3:
        return f"d_in^(1/{rng.randrange(1, 5)})"
    if kind == 4:
        return f"({expression(rng, depth + 1)})"
    if kind == 5:
        inner = ", ".join(expression(rng, depth + 1) for _ in range(rng.choice((2, 3))))
        return f"{rng.choice(('min', 'max'))}({inner})"
    if kind == 6:
        return f"sqrt({expression(rng, depth + 1)})"
    sign = rng.choice("+-*/^")
    right = expression(rng, depth + 1)
    return f"{expression(rng, depth + 1)} {sign} " + (f"({right})" * 1)


def generated(rng: random.Random) -> str:
    """A spec by the grammar: right in form, sometimes wrong or odd in meaning."""
    names = rng.sample("abcefghijklmnopqrstuvw", rng.randrange(2, 8))
    grows, letters = rng.random() < 0.4, rng.sample("ABCDEFGHIJKLMNOP", 15)

    def pick(known: list[str], most: int) -> list[str]:
        return rng.sample(known, min(len(known), rng.randrange(0, most + 1)))

    lines, sides = [], []
    for number in range(rng.choice((1, 1, 1, 1, 2, 3))):
        inputs = pick(names, 3)
        factors = [pick(names, 4) for _ in range(rng.randrange(0, 5))]
        held = sorted({n for ref in (inputs, *factors) for n in ref})
        if grows and rng.random() < 0.9:
            held = [n for n in held if all(n not in side for side in (*sides, inputs))]
        outputs = pick(names if rng.random() < 0.05 else held, 3)
        sides += [inputs, outputs]
        if rng.random() < 0.9:
            letters = letters[len(factors) :] + letters[: len(factors)]
        right = [f"x[{', '.join(inputs)}]"]
        right += [
            f"{n}[{', '.join(i)}]" for n, i in zip(letters, factors, strict=False)
        ]
        if rng.random() < 0.03:
            right.append("x[a]")
        rng.shuffle(right)
        sign = "=" if (number == 0) != (rng.random() < 0.02) else "+="
        lines.append(f"y[{', '.join(outputs)}] {sign} {' * '.join(right)}")
    used = re.findall(r"\b[a-w]\b", " ".join(lines))
    for name in dict.fromkeys(used):
        lines += _size(rng, name, sides, grows)
    if rng.random() < 0.15:
        on_sides = {name for side in sides for name in side}
        inner = [name for name in used if name not in on_sides]
        routed = rng.choice(inner or names)
        lines.append(f"route {routed} top {rng.choice('1123')}")
    if rng.random() < 0.15:
        held = re.findall(r"\b[A-P]\b", " ".join(lines)) or ["A"]
        named = [rng.choice(held) for _ in range(rng.randrange(1, 3))]
        lines.append(rng.choice(("normalize all", f"normalize {', '.join(named)}")))
    params = rng.choice(("", "", "(rank = 2)", "(rank = d^(1/2), k = 1/3)"))
    return f"structure s{params} {{\n" + "\n".join(lines) + "\n}\n"


def _size(
    rng: random.Random, name: str, sides: list[list[str]], grows: bool
) -> list[str]:
    """A statement for an index, or none."""
    chance = rng.random()
    if chance < 0.04:
        return []
    if chance < 0.1:
        return [f"{name} {rng.choice('=~')} {expression(rng)}"]
    held = [side for side in sides if name in side]
    if grows and held:
        feature = "d_in" if sides.index(held[0]) % 2 == 0 else "d_out"
        return [f"{name} ~ {feature}^(1/{len(held[0])})"]
    if grows and chance < 0.4:
        return [f"{name} ~ d^(1/{rng.randrange(1, 5)})"]
    return [f"{name} = {rng.randrange(1, 7)}"]


def run(arguments: list[str]) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = COMMAND.main(arguments, prog_name="einc", standalone_mode=False)
        except typer.Exit as exit_:
            status = exit_.exit_code
        except SystemExit as exit_:
            status = exit_.code
    return int(status or 0), out.getvalue(), err.getvalue()


def attempt(rng: random.Random, text: str, path: Path) -> tuple[str, str]:
    """What was asked and what is wrong with the answer ("" if nothing)."""
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    command = rng.choice(("check", "analyze", "codegen", "fmt"))
    if command == "fmt":
        return command, _lay_out(text)
    arguments = [command, str(path)]
    if command == "analyze" and rng.random() < 0.3:
        arguments.append("--why")
    if rng.random() < (0.95 if "~" in text else 0.05):
        for option in ("--in", "--out"):
            features = rng.choice((1, 2, 3, 12, 64, 100, 1009, 4096))
            arguments += [option, str(features)]
    if command != "codegen":
        arguments.append("--json")
    shown = " ".join(arguments[:1] + arguments[2:])
    started = time.monotonic()
    try:
        status, out, err = run(arguments)
    except Exception as error:
        return shown, f"traceback: {type(error).__name__}: {error}"
    slow = SLOW_ELIMINATION if "elimination of" in out else SLOW
    if time.monotonic() - started > slow:
        return shown, f"{time.monotonic() - started:.1f} s"
    shown += f" exits {status}"
    try:
        return shown, _complaint(command, status, out, err)
    except (SyntaxError, ValueError) as error:
        return shown, f"output: {type(error).__name__}: {error}"


def _lay_out(text: str) -> str:
    """What is wrong with the layout of a file, if it has one."""
    source = Source.of("fuzz.ein", text)
    try:
        tree = parse(source)
    except SpecError:
        return ""
    once = laid_out(source)
    again = Source("fuzz.ein", once)
    if parse(again) != tree:
        return f"the layout means something else:\n{once}"
    return "" if laid_out(again) == once else f"the layout is not the last:\n{once}"


def _complaint(command: str, status: int, out: str, err: str) -> str:
    if status not in (0, 1, 2):
        return f"exit status {status}"
    if status == 2:
        usage = "structures; name one" in err or "error:" in err
        return "" if usage and not out else f"exit status 2: {err[:200]}"
    if command == "codegen":
        if (status == 1) != ("error[E" in err):
            return f"exit status {status} with {err[:200]}"
        if status == 0:
            compile(out, "generated", "exec")
        return ""
    document = json.loads(out)
    found = document.get("diagnostics", [])
    errors = [d for d in found if d["severity"] == "error"]
    if bool(errors) != (status == 1):
        return f"exit status {status} with {len(errors)} errors"
    return ""


def fuzz(files: int, seed: int, seconds: float = float("inf")) -> Counter[str]:
    """Tries `files` files, or as many as fit; counts outcomes, prints failures."""
    rng = random.Random(seed)
    specs, outcomes = corpus(), Counter[str]()
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzz.ein"
        for number in range(files):
            if time.monotonic() > end:
                break
            fresh = rng.random() < 0.5
            text = generated(rng) if fresh else mutated(rng, rng.choice(specs))
            asked, wrong = attempt(rng, text, path)
            told = asked if asked == "fmt" else f"exit {asked[-1]}"
            outcomes["failed" if wrong else told] += 1
            if wrong:
                print(f"--- file {number}: {asked}: {wrong}\n{text}", flush=True)
            if sys.stderr.isatty() and number % 1000 == 0:
                print(f"{number} files", end="\r", file=sys.stderr)
    return outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    result = fuzz(options.files, options.seed)
    took = time.monotonic() - began
    print(f"{sum(result.values())} files in {took:.0f} s: {dict(result)}")
    sys.exit(bool(result["failed"]))
