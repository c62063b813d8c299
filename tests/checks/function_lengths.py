"""No function over 90 lines: finds function bodies by matching braces and names those that are longer.

  python3 tests/checks/function_lengths.py [--limit 90] [FILES]

Without FILES it reads every .h, .cpp, .cu and .cuh of the tree. A lambda counts for the function that it stands in. This is
no parser: comments, literals and preprocessor lines are blanked, and a brace opens a function where the text before it has
parentheses and is neither a type, a namespace nor an initialiser. That holds for code in the format of this tree.
"""

import argparse
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ("core", "autograd", "nn", "rl", "cuda", "tools", "tests")

# (file, function): why it may be longer. Whoever adds one says what a reader would lose by the cut.
EXCEPTIONS = {
}

BLANKED = re.compile(
    r"""//[^\n]*|/\*.*?\*/                                       # comments
      |R"(?P<mark>[^()\\\s]{0,16})\(.*?\)(?P=mark)"              # raw strings
      |"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'   # strings and characters, but not 1'000
      |^[ \t]*\#(?:[^\n\\]|\\[^\n]|\\\n)*                        # preprocessor lines, continued ones too
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)


def blank(match):
    return re.sub(r"[^\n]", " ", match.group())


def opens_function(head):
    head = head.strip()
    if "(" not in head or head.endswith("="):
        return False
    return not re.match(r"(?:template\s*<.*>\s*)?(?:namespace|class|struct|union|enum|extern)\b(?!.*\)\s*\w*$)", head, re.DOTALL)


def name_of(head):
    head = re.sub(r"__launch_bounds__\([^()]*\)|template\s*<[^{}]*?>\s*(?=\w)", "", head)
    test = re.search(r"\bTEST(?:_F|_P)?\(([^)]*)\)", head)
    found = re.search(r"([\w:~]+|operator\S+)\s*\(", head)
    return test.group(1) if test else found.group(1) if found else "?"


def functions(text):
    """(name, first line, number of lines) of each function of a source, lines counted from its signature to its last brace."""
    code = BLANKED.sub(blank, text)
    depth, start, outer = 0, 0, None  # outer: (name, first line, depth) of the function we are in
    for i, c in enumerate(code):
        if c == "{":
            head = code[start:i]
            if outer is None and opens_function(head):
                first = start + len(head) - len(head.lstrip())
                outer = (name_of(head), code.count("\n", 0, first) + 1, depth)
            depth += 1
        elif c == "}":
            depth -= 1
            if outer and depth == outer[2]:
                yield outer[0], outer[1], code.count("\n", 0, i) + 2 - outer[1]
                outer = None
        if c in ";{}" or (c == ":" and re.search(r"\b(?:public|private|protected)\s*$", code[start:i])):
            start = i + 1
    if depth != 0:
        raise ValueError(f"{depth} braces are left open")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    parser.add_argument("--limit", type=int, default=90)
    args = parser.parse_args()
    files = args.files or sorted(
        path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh")
    )
    long, seen, count = [], set(), 0
    for path in files:
        file = str(path.resolve().relative_to(ROOT)) if path.resolve().is_relative_to(ROOT) else str(path)
        for name, line, length in functions(path.read_text(encoding="utf-8")):
            count += 1
            if length <= args.limit:
                continue
            seen.add((file, name))
            if (file, name) not in EXCEPTIONS:
                long.append(f"{file}:{line}: {name} has {length} lines, {args.limit} are allowed")
    print("\n".join(long + [f"{count} functions in {len(files)} files"]))
    if not args.files:
        for file, name in EXCEPTIONS.keys() - seen:
            print(f"{file}: {name} is listed as an exception and is not that long")
    sys.exit(bool(long))


if __name__ == "__main__":
    main()
