// Greedy text of a model, by the libraries of an installed mantissa: example MODEL PROMPT
#include <exception>
#include <iostream>

#include "core/registry.h"
#include "rl/rollout/engine.h"
#include "rl/text/model_tokenizer.h"

int main(int argc, char** argv) try {
  using namespace mantissa;
  if (argc != 3) throw Error("usage: example MODEL PROMPT");
  const auto model = load_model(argv[1], cpu(), Dtype::kF32, false);
  const auto tokenizer = open_tokenizer(*model);
  Prompt prompt;
  prompt.ids = tokenizer->encode(argv[2]);
  Engine engine(*model, RolloutConfig(), {.kv_cache = Dtype::kF32, .lm_head = Dtype::kF32, .residual = Dtype::kF32});
  GenerateOptions options;
  options.sampling.temperature = 0;
  options.stop = StopRule(stop_ids(model->config, *tokenizer), *tokenizer, {}, true);
  const Request request{.prompt = &prompt};
  std::cout << engine.generate({&request, 1}, options)[0][0].text << '\n';
  return 0;
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << '\n';
  return 1;
}
