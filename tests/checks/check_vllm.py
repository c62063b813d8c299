#!/usr/bin/env python3
"""Whether vLLM's loader takes what `export` writes, without a GPU and without vLLM's kernels.

  python3 -m pip download --no-deps --dest DIR vllm
  build/bin/export --model tests/golden/qwen2 --output qwen2
  python3 tests/checks/check_vllm.py DIR/vllm-*.whl qwen2 [DIRECTORY ...]

Of vLLM run its model classes (llama, qwen2, qwen3, qwen3_moe), its mapping of names and its loader, out of the wheel. The
layers beneath are stand-ins, which have the parameters' shapes and remember what is loaded into them, and so is all else
of vLLM: nothing is computed. Every tensor must be taken, every parameter and every expert filled, each once and in its shape, and
transformers must give vLLM the config. Needs torch (of any kind), transformers and safetensors.
"""

import importlib
import importlib.abc
import importlib.machinery
import pathlib
import re
import sys
import tempfile
import types
import zipfile

import torch
import transformers
from safetensors import safe_open

REAL = ["vllm.model_executor.models." + name for name in ("llama", "qwen2", "qwen3", "qwen3_moe", "utils")]
CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}


# ---- the layers ------------------------------------------------------------------------------------------------------


class Layer(torch.nn.Module):
    def __init__(self, *_, **__):
        super().__init__()

    def hold(self, name, shape, shards=None):
        """A parameter that is loaded whole, or in shards of so many rows."""
        parameter = torch.nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)
        parameter.missing = {None: shape[0]} if shards is None else dict(shards)

        def load(parameter, tensor):
            rows = parameter.missing.pop(getattr(tensor, "shard_id", None))
            assert list(tensor.shape) == [rows, *shape[1:]], f"{name} must have shape {[rows, *shape[1:]]}: got {list(tensor.shape)}"

        parameter.weight_loader = load
        setattr(self, name, parameter)


class Linear(Layer):
    def __init__(self, input_size, output_size, bias=True, shards=None, **_):
        super().__init__()
        self.hold("weight", (output_size, input_size), shards)
        if bias:
            self.hold("bias", (output_size,), shards)


class Merged(Linear):
    def __init__(self, input_size, output_sizes, bias=True, **_):
        super().__init__(input_size, sum(output_sizes), bias, dict(enumerate(output_sizes)))


class Qkv(Linear):
    def __init__(self, hidden_size, head_size, total_num_heads, total_num_kv_heads, bias=True, **_):
        rows = {"q": total_num_heads * head_size, "k": total_num_kv_heads * head_size, "v": total_num_kv_heads * head_size}
        super().__init__(hidden_size, sum(rows.values()), bias, rows)


class Gate(Linear):
    def __init__(self, input_size, output_size, **_):
        super().__init__(input_size, output_size, bias=False)


class Norm(Layer):
    def __init__(self, size, **_):
        super().__init__()
        self.hold("weight", (size,))


class Embedding(Layer):
    def __init__(self, rows, size, **_):
        super().__init__()
        self.hold("weight", (rows, size))

    def tie_weights(self, other):
        self.weight = other.weight
        return self


class Experts(Layer):
    def __init__(self, num_experts, hidden_size, intermediate_size, **_):
        super().__init__()
        shapes = {"gate": [intermediate_size, hidden_size], "up": [intermediate_size, hidden_size], "down": [hidden_size, intermediate_size]}
        self.missing = {f"{i}.{part}_proj.weight": shape for i in range(num_experts) for part, shape in shapes.items()}

    def load_weights(self, weights):
        for name, tensor in weights:
            shape = self.missing.pop(name)
            assert list(tensor.shape) == shape, f"expert {name} must have shape {shape}: got {list(tensor.shape)}"
            yield name


# ---- the rest of vLLM ------------------------------------------------------------------------------------------------


class Nothing(type):
    """The type of classes that have every name, and do nothing."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


def unchanged(*given, **_):
    """What a decorator becomes, with arguments or without."""
    return given[0] if given and callable(given[0]) else lambda one: one


GROUP = types.SimpleNamespace(
    is_first_rank=True, is_last_rank=True, world_size=1, rank_in_group=0, device_group=types.SimpleNamespace(size=lambda: 1))
OFFLOADER = types.SimpleNamespace(wrap_modules=list)
LOGGER = types.SimpleNamespace(debug=lambda *_: None, info=lambda *_: None, warning=print)
ROPE = []  # what get_rope was given
KNOWN = {
    "RowParallelLinear": Linear, "MergedColumnParallelLinear": Merged, "QKVParallelLinear": Qkv, "GateLinear": Gate, "RMSNorm": Norm,
    "VocabParallelEmbedding": Embedding, "ParallelLMHead": Embedding, "FusedMoEFactory": Experts, "Attention": Layer, "SiluAndMul": Layer,
    "LogitsProcessor": Layer, "get_rope": lambda *_, **given: ROPE.append(given["rope_parameters"]), "get_pp_group": lambda: GROUP,
    "get_ep_group": lambda: GROUP, "get_tensor_model_parallel_world_size": lambda: 1, "get_pp_indices": lambda layers, *_: (0, layers),
    "get_offloader": lambda: OFFLOADER, "init_logger": lambda _: LOGGER, "set_default_rope_theta": lambda *_, **__: None,
    "default_weight_loader": lambda parameter, tensor: parameter.weight_loader(parameter, tensor),
}  # fmt: skip


class Standin(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return KNOWN.get(name) or (Nothing(name, (), {}) if name[0].isupper() else unchanged)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, root):
        self.root = root

    def find_spec(self, name, path=None, target=None):
        if name in REAL:
            return importlib.machinery.ModuleSpec(name, importlib.machinery.SourceFileLoader(name, f"{self.root}/{name.replace('.', '/')}.py"))
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "vllm" else None

    def create_module(self, spec):
        return Standin(spec.name)

    def exec_module(self, module):
        pass


def check(directory):
    config = transformers.AutoConfig.from_pretrained(directory)
    assert config.architectures == [CLASSES[config.model_type]], config.architectures
    parallel = types.SimpleNamespace(use_sequence_parallel_moe=False, enable_eplb=False, eplb_config=types.SimpleNamespace(num_redundant_experts=0))
    whole = types.SimpleNamespace(model_config=types.SimpleNamespace(hf_config=config, hf_text_config=config), cache_config=None,
                                  quant_config=None, parallel_config=parallel)
    KNOWN["get_current_vllm_config"] = lambda: whole
    ROPE.clear()
    torch.set_default_dtype(config.dtype)
    model = getattr(importlib.import_module("vllm.model_executor.models." + config.model_type), CLASSES[config.model_type])(vllm_config=whole)
    files = [safe_open(path, "pt") for path in sorted(directory.glob("*.safetensors"))]
    weights = [(name, file.get_tensor(name)) for file in files for name in file.keys()]
    model.load_weights(weights)
    missing = [f"{name} {list(p.missing)}" for name, p in model.named_parameters() if p.missing]
    missing += [f"{name}.{expert}" for name, layer in model.named_modules() if isinstance(layer, Experts) for expert in layer.missing]
    assert not missing, f"{directory}: not loaded: {missing}"
    print(f"{directory}: {CLASSES[config.model_type]} takes {len(weights)} tensors, {len(list(model.parameters()))} parameters are whole; rope {ROPE[0]}")


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.modules.setdefault("regex", re)
    with tempfile.TemporaryDirectory() as root:
        with zipfile.ZipFile(sys.argv[1]) as wheel:
            wheel.extractall(root, [name.replace(".", "/") + ".py" for name in REAL])
        sys.meta_path.insert(0, Finder(root))
        for directory in sys.argv[2:]:
            check(pathlib.Path(directory))


if __name__ == "__main__":
    main()
