#include "rl/reward/python_worker.h"

namespace mantissa {
namespace {

constexpr std::string_view kProgram =
    R"py(import importlib.machinery, importlib.util, json, math, os, resource, sys, traceback

answers_out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")  # half a surrogate pair is no UTF-8
tasks_in = os.fdopen(os.dup(0), "r", encoding="utf-8", newline="\n")
os.dup2(2, 1)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
sys.stdout = sys.stderr  # line by line: what is printed is in the log at once
path, name = sys.argv[1:]


def say(message):
    answers_out.write(json.dumps(message, ensure_ascii=False) + "\n")
    answers_out.flush()


def story(error):
    """What an exception says, and where in the user's file it was raised."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    at = f" ({os.path.basename(path)} line {frames[-1].lineno})" if frames else ""
    try:
        said = str(error)
    except BaseException:
        said = ""
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if isinstance(error, MemoryError) and limit != resource.RLIM_INFINITY:
        at += f", under reward.memory_mb: {limit >> 20}"
    return {"error": text[:300] + at}


def told(value):
    extracted = ""
    if isinstance(value, dict):
        if "reward" not in value:
            raise ValueError(f"a dict must have the key reward, got {value!r:.80}")
        value, extracted = value["reward"], value.get("extracted", "")
    elif isinstance(value, (tuple, list)):
        if len(value) != 2:
            rule = "the reward must be a number, or a pair of it and the answer that was read"
            hint = f"a function of many answers has {name}.batch = True behind it"
            raise ValueError(f"{rule}, got {value!r:.40} ({hint})")
        value, extracted = value
    number = hasattr(value, "__float__") or hasattr(value, "__index__")
    if isinstance(value, (str, bytes)) or not number:  # of numpy's texts float() makes numbers, too
        raise TypeError(f"the reward must be a number, got {type(value).__name__} {value!r:.40}")
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"the reward must be finite, got {value}")
    return {"reward": value, "extracted": "" if extracted is None else str(extracted)}


def attempt(function, *arguments):
    """What it returns, or the exception that it raises, which is then in the log."""
    try:
        return function(*arguments)
    except Exception as error:
        traceback.print_exc()
        return error


def answer(value):
    if not isinstance(value, Exception):
        value = attempt(told, value)
    say(story(value) if isinstance(value, Exception) else value)


def rewards_of(function, tasks):
    """Those of a function that takes many answers at a time, or an exception for each. Where it raises one, the answers
    are given to it one by one, which tells whose it is."""
    values = attempt(lambda: list(function([t[0] for t in tasks], [t[1] for t in tasks]))) if tasks else []
    if isinstance(values, Exception):
        return [values] if len(tasks) == 1 else [v for t in tasks for v in rewards_of(function, [t])]
    if len(values) != len(tasks):
        return [ValueError(f"{name} returned {len(values)} rewards for {len(tasks)} responses")] * len(tasks)
    return values


def main():
    try:
        sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
        loader = importlib.machinery.SourceFileLoader("mantissa_reward", path)  # whatever the suffix
        spec = importlib.util.spec_from_loader(loader.name, loader)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        function = getattr(module, name, None)
    except BaseException as error:
        traceback.print_exc()
        say(story(error))
        return
    if not callable(function):
        what = f"no function {name}" if function is None else f"{name}, which is no function"
        rule = f"it must define {name}(response, record), or reward.path FILE.py:NAME names another function"
        print(f"{path} defines {what}")
        say({"error": f"defines {what}: {rule}"})
        return
    batch = bool(getattr(function, "batch", False))
    say({"ready": True, "batch": batch})
    for line in tasks_in:
        # A record may have more levels or digits than Python reads.
        tasks = [(response, attempt(json.loads, record)) for response, record in json.loads(line)]
        if batch:
            read = [t for t in tasks if not isinstance(t[1], Exception)]
            values = iter(rewards_of(function, read))
        for response, record in tasks:
            if isinstance(record, Exception):
                answer(record)
            else:
                answer(next(values) if batch else attempt(function, response, record))


main()
)py";

}  // namespace

std::string_view python_worker() {
  return kProgram;
}

}  // namespace mantissa
