// export: a model in another format: a Hugging Face directory or a GGUF file, with tokenizer and chat template.
#include "core/registry.h"
#include "nn/formats/gguf_writer.h"
#include "rl/logging/log.h"
#include "tools/common.h"
#include "tools/programs.h"

namespace mantissa {

int export_main(int argc, char** argv) {
  std::string path, output, type = "f16";
  Arguments args(
      "export",
      "Writes a model as a Hugging Face directory or, where --output ends in .gguf, as a GGUF file for llama.cpp. "
      "Tokenizer and chat template go with it. Values are rounded once, to --type.");
  args.field("model", path, "Hugging Face directory, .gguf file, RUN/checkpoints/step_N or builtin:NAME");
  args.required();
  args.field("output", output, "a directory that is new or empty, or FILE.gguf");
  args.required();
  args.choice("type", type, {"f32", "f16", "bf16", "q8_0", "q4_0"},
              "of the weights; q8_0 and q4_0 (8.5 and 4.5 bits) for GGUF alone");
  if (!args.parse(argc, argv)) return 0;
  const bool gguf = std::filesystem::path(output).extension() == ".gguf";
  check(gguf || !type.starts_with('q'), "--type ", type, ": only a .gguf file can hold it, got --output ", output);
  check_outputs({{"--output", output}}, {path});

  const std::unique_ptr<Model> model = load_model(path, cpu(), Dtype::kF32, false);
  if (gguf) {
    for (const std::string& note : save_gguf(*model, output, type)) log_info(note);
  } else {
    save_hf(*model, output, type == "f32" ? Dtype::kF32 : parse_precision(type == "f16" ? "fp16" : type));
  }
  log_info(str(path, " -> ", output, " in ", type));
  return 0;
}

}  // namespace mantissa
