// tokenize: {"text"} -> {"ids", "ids_with_special", "decoded"}. Reads the model's tokenizer files alone.
#include "tools/common.h"
#include "tools/json_lines.h"
#include "tools/programs.h"

namespace mantissa {

int tokenize_main(int argc, char** argv) {
  std::string model, input;
  Arguments args("tokenize",
                 "Token ids of each line {\"text\": ...}, and the text they decode to: {\"ids\", \"ids_with_special\", "
                 "\"decoded\"}. Needs no weights, only tokenizer.json (or a .gguf file).");
  args.field("model", model, "Hugging Face directory, .gguf file or builtin:NAME");
  args.required();
  args.stands_for("model.path");
  args.field("input", input, "JSON lines; - is standard input");
  args.not_empty();
  args.required();
  if (!args.parse(argc, argv)) return 0;

  JsonLines lines(input);
  const auto tokenizer = open_tokenizer(load_tokenizer_files(model));
  while (lines.next()) {
    const std::string text = lines.text("text");
    const std::vector<int32_t> ids = tokenizer->encode(text), special = tokenizer->encode(text, true);
    print(JsonObject().add("ids", ids).add("ids_with_special", special).add("decoded", tokenizer->decode(ids)));
  }
  return 0;
}

}  // namespace mantissa
