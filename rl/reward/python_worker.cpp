#include "rl/reward/python_worker.h"

namespace mantissa {

std::string_view python_worker() {
  return R"py(import importlib.util, json, math, os, sys, traceback

answers_out = os.fdopen(os.dup(1), "w", encoding="utf-8")
tasks_in = os.fdopen(os.dup(0), "r", encoding="utf-8")
os.dup2(2, 1)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
sys.stdout = sys.stderr  # line by line: what is printed is in the log at once
path, name = sys.argv[1:]


def say(message):
    answers_out.write(json.dumps(message) + "\n")
    answers_out.flush()


def story(error):
    """What an exception says, and where in the user's file it was raised."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    at = f" ({os.path.basename(path)} line {frames[-1].lineno})" if frames else ""
    text = f"{type(error).__name__}: {error}"
    return {"error": text[:300] + at}


def told(value):
    extracted = ""
    if isinstance(value, dict):
        value, extracted = value["reward"], value.get("extracted", "")
    elif isinstance(value, (tuple, list)):
        value, extracted = value
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"the reward must be finite, got {value}")
    return {"reward": value, "extracted": "" if extracted is None else str(extracted)}


def graded(function, task):
    try:
        say(told(function(*task)))
    except Exception as error:
        traceback.print_exc()
        say(story(error))


def main():
    try:
        sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
        spec = importlib.util.spec_from_file_location("mantissa_reward", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        function = getattr(module, name)
    except BaseException as error:
        traceback.print_exc()
        say(story(error))
        return
    batch = bool(getattr(function, "batch", False))
    say({"ready": True, "batch": batch})
    for line in tasks_in:
        tasks = json.loads(line)
        if not batch:
            for task in tasks:
                graded(function, task)
            continue
        try:
            values = list(function([t[0] for t in tasks], [t[1] for t in tasks]))
            if len(values) != len(tasks):
                raise ValueError(f"{name} returned {len(values)} rewards for {len(tasks)} responses")
        except Exception as error:
            traceback.print_exc()
            for _ in tasks:
                say(story(error))
            continue
        for value in values:
            graded(lambda: value, ())


main()
)py";
}

}  // namespace mantissa
