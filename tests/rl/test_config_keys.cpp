// The reference of config keys: docs/config.md is what the program prints, and other programs' names lead to ours.
#include "rl/config_keys.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <regex>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "rl/logging/metric_table.h"
#include "tests/support/message.h"

namespace mantissa {
namespace {

bool known(const std::string& name) {
  const std::vector<ConfigKey> keys = config_keys();
  return std::ranges::find(keys, name, &ConfigKey::name) != keys.end();
}

std::string error_of(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  return message_of([&] { parse_run_config(yaml, "run.yaml", overrides); });
}

TEST(ConfigKeys, TheDocumentIsWhatTheProgramPrints) {
  EXPECT_EQ(read_file(std::string(MANTISSA_SOURCE_DIR) + "/docs/config.md"), describe_keys({}))
      << "make it again: build/bin/trainer --keys > docs/config.md";
}

TEST(ConfigKeys, DocumentsNameKeysAndMetricsThatAre) {
  std::set<std::string> sections;
  for (const ConfigKey& key : config_keys()) sections.insert(key.name.substr(0, key.name.find('.')));
  int keys = 0, metrics = 0;
  for (const char* file : {"docs/troubleshooting.md", "docs/your_task.md", "README.md"}) {
    const std::string text = read_file(std::string(MANTISSA_SOURCE_DIR) + "/" + file);
    static const std::regex kKey("`([a-z]+)\\.([a-z0-9_]+)[^`./]*`"), kMetric("`([a-z_]+(/[a-zA-Z0-9_@]+)+)`");
    for (std::sregex_iterator it(text.begin(), text.end(), kKey), end; it != end; ++it) {
      if (!sections.contains((*it)[1]) || (*it)[2] == "log" || (*it)[2] == "jsonl") continue;  // a file
      EXPECT_TRUE(known(str((*it)[1], ".", (*it)[2]))) << file << ": " << it->str();
      ++keys;
    }
    for (std::sregex_iterator it(text.begin(), text.end(), kMetric), end; it != end; ++it) {
      const std::string name = (*it)[1];
      if (std::filesystem::exists(std::string(MANTISSA_SOURCE_DIR) + "/" + name.substr(0, name.find('/')))) continue;
      if (name.starts_with("runs/") || name.starts_with("checkpoints/") || name.starts_with("build/")) continue;
      EXPECT_NE(find_metric(name), nullptr) << file << ": " << name;
      ++metrics;
    }
  }
  EXPECT_GT(keys, 50);
  EXPECT_GT(metrics, 30);
}

TEST(ConfigKeys, EveryKeyHasAMeaning) {
  const std::vector<ConfigKey> keys = config_keys();
  EXPECT_GT(keys.size(), 90u);
  for (const ConfigKey& key : keys) {
    EXPECT_GT(key.meaning.size(), 10u) << key.name << ": " << key.meaning;
    EXPECT_FALSE(key.type.empty()) << key.name;
    EXPECT_FALSE(key.meaning.ends_with('.')) << key.name;
  }
}

TEST(ConfigKeys, APrefixPrintsItsKeys) {
  const std::string some = describe_keys({"optim.beta", "rollout.n"});
  EXPECT_NE(some.find("## optim"), std::string::npos);
  EXPECT_NE(some.find("- `optim.beta1` (number, between 0 and 0.9999999; default `0.9`): "), std::string::npos) << some;
  EXPECT_NE(some.find("`rollout.n` (integer, between 1 and 65536; default `"), std::string::npos) << some;
  EXPECT_EQ(some.find("optim.lr"), std::string::npos);
  EXPECT_EQ(some.find("# Keys"), std::string::npos);
  EXPECT_NE(describe_keys({"checkpoint.keep"}).find("; free on resume)"), std::string::npos);
  try {
    describe_keys({"optim.learning_rate"});
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("the nearest is \"optim.lr\""), std::string::npos) << e.what();
  }
}

TEST(ConfigKeys, RewardsWithNamesHaveTheirs) {
  const std::string weight = "- `reward.NAME.weight` (number, between -1000000 and 1000000; default `1`): ";
  const std::string named = describe_keys({"reward.NAME"});
  EXPECT_NE(named.find(weight), std::string::npos) << named;
  EXPECT_NE(named.find("- `reward.NAME.data_source` (list of texts; default `[]`): "), std::string::npos) << named;
  EXPECT_EQ(std::ranges::count(named, '\n'), 4) << named;
  EXPECT_EQ(describe_keys({"reward.x.weight"}).find("## reward\n\n" + weight), 0u);
  EXPECT_EQ(describe_keys({"reward.x.timeout_s"}), describe_keys({"reward.timeout_s"}));
  EXPECT_NE(message_of([] { describe_keys({"reward.x.wieght"}); }).find("no key begins with \"reward.x.wieght\""),
            std::string::npos);
  EXPECT_NE(describe_keys({}).find("`reward: {NAME: {kind: math"), std::string::npos);
}

TEST(ConfigKeys, NamesOfOtherProgramsLeadToOurs) {
  for (const auto& [foreign, ours] : foreign_keys()) EXPECT_TRUE(known(ours)) << foreign << " -> " << ours;
  EXPECT_EQ(nearest_key("optim.learning_rate"), "optim.lr");
  EXPECT_EQ(nearest_key("train.num_generations"), "rollout.n");
  EXPECT_EQ(nearest_key("actor_rollout_ref.actor.optim.lr"), "optim.lr");  // the same name
  EXPECT_EQ(nearest_key("optim.seed"), "run.seed");
  EXPECT_EQ(nearest_key("optim.warmup_step"), "optim.warmup_steps");  // misspelt
  EXPECT_EQ(nearest_key("rollout.temprature"), "rollout.temperature");
  EXPECT_EQ(nearest_key("sampling.top_q"), "rollout.top_p");
}

TEST(ConfigKeys, AnUnknownKeyIsAnsweredWithTheKnownOne) {
  EXPECT_NE(error_of("optim:\n  learning_rate: 1\n")
                .find("run.yaml line 2: unknown key \"optim.learning_rate\"; the nearest known key is \"optim.lr\""),
            std::string::npos);
  EXPECT_NE(error_of("eval: {files: {a: b}}\n").find("key \"eval.files.a\"; the nearest known key is \"eval.files\""),
            std::string::npos);
  EXPECT_NE(error_of("run: {}\n", {"training.max_steps=3"}).find("is \"train.steps\""), std::string::npos);
}

TEST(ConfigKeys, NumbersArePrintedAsPeopleWriteThem) {
  RunConfig config;
  config.reward.one.timeout_s = 10;
  config.optim.lr = 3e-6;
  const std::string text = format_run_config(config);
  EXPECT_NE(text.find("timeout_s: 10\n"), std::string::npos) << text;
  EXPECT_NE(text.find("lr: 3e-06\n"), std::string::npos) << text;
}

}  // namespace
}  // namespace mantissa
