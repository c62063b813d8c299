#include "tools/evaluation_dump.h"

#include <algorithm>
#include <cstdio>

#include "core/hash.h"
#include "tools/json_lines.h"

namespace mantissa {
namespace {

constexpr size_t kLargestDump = size_t(4) << 30;
constexpr std::string_view kFirst = "{\"set\": ";

/// The keys and values of a config section as text.
class SettingsText final : public Fields {
 public:
  explicit SettingsText(std::set<std::string> skipped) : skipped_(std::move(skipped)) {}
  void field(const char* key, bool& value, const Help&) override { add(key, value); }
  void field(const char* key, int64_t& value, const Help&, Range) override { add(key, value); }
  void field(const char* key, double& value, const Help&, Range) override { add(key, value); }
  void field(const char* key, std::string& value, const Help&) override { add(key, value); }
  void choice(const char* key, std::string& value, const std::vector<std::string>&, const Help&) override {
    add(key, value);
  }
  void field(const char* key, std::vector<std::string>& value, const Help&) override {
    for (const std::string& v : value) add(key, v);
  }
  const std::string& text() const { return text_; }

 private:
  template <class T>
  void add(const char* key, const T& value) {
    if (!skipped_.contains(key)) text_ += str(key, '=', value, '\n');
  }
  std::set<std::string> skipped_;
  std::string text_;
};

/// What became of the grades of a line; nothing where an earlier version wrote it.
std::vector<GradeStatus> statuses_of(const JsonLines& lines) {
  std::vector<GradeStatus> statuses;
  if (!lines.has("status")) return statuses;
  for (const std::string& name : lines.texts("status")) {
    const auto known = std::ranges::find(kGradeStatuses, name, status_name);
    check(known != std::end(kGradeStatuses), lines.where(), ": \"status\" has an unknown name: got ", name);
    statuses.push_back(*known);
  }
  return statuses;
}

}  // namespace

std::string settings_of(const ModelFlags& flags, RolloutConfig rollout, RewardConfig reward,
                        const std::vector<Prompt>& prompts, int64_t seed) {
  SettingsText text({"max_batch", "cache_tokens", "memory_fraction", "draft"});
  rollout.fields(text);
  reward.fields(text);
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx",
                (unsigned long long)hash64(str(flags.model, flags.adapter.empty() ? "" : "\n" + flags.adapter, '\n',
                                               flags.precision, '\n', text.text(), seed, '\n', data_hash(prompts))));
  return digits;
}

EvaluationDump::EvaluationDump(const std::string& path, bool resume) : path_(path) {
  std::error_code none;
  const auto size = std::filesystem::file_size(path, none);
  check(resume || none || size == 0, "--dump ", path,
        ": holds an earlier evaluation; --resume carries it on, delete it to start anew");
  int64_t whole = 0;  // less the line that it was killed in
  if (resume && file_exists(path)) {
    const std::string text = read_file(path, kLargestDump), head = text.substr(0, kFirst.size());
    check(kFirst.starts_with(head), "--dump ", path, ": is not what --dump writes, whose lines begin with ", kFirst);
    whole = int64_t(text.rfind('\n')) + 1;
  }
  file_.emplace(path, whole);
  if (whole > 0) read();
}

void EvaluationDump::read() {
  for (JsonLines lines(path_); lines.next();) {
    const auto [it, fresh] = sets_.try_emplace(lines.text("set"));
    Set& set = it->second;
    if (fresh) set.settings = lines.text("settings");
    check(set.settings == lines.text("settings"), lines.where(), ": was made by other settings than the line before");
    set.where = lines.where();
    set.results[lines.integer("row")] = {.row = lines.integer("row"),
                                         .samples = lines.integer("samples"),
                                         .correct = lines.integer("correct"),
                                         .truncated = lines.integer("truncated"),
                                         .tokens = lines.integer("tokens"),
                                         .reward = lines.number("reward"),
                                         .majority = lines.number("majority"),
                                         .statuses = statuses_of(lines),
                                         .failure = lines.has("failure") ? lines.text("failure") : ""};
  }
}

Results EvaluationDump::take(const std::string& set, const std::string& settings) const {
  const auto it = sets_.find(set);
  if (it == sets_.end()) return {};
  check(it->second.settings == settings, it->second.where,
        ": was made with another model, precision, sampling, reward, seed or data; --resume carries on with the same "
        "only");
  return it->second.results;
}

void EvaluationDump::write(const std::string& set, const std::string& settings, const RolloutGroup& group,
                           const ProblemResult& result) {
  std::vector<std::string> responses, extracted, finish, statuses;
  std::vector<float> rewards;
  std::vector<int32_t> lengths;
  for (const RolloutSample& s : group.samples) {
    responses.push_back(s.completion.text);
    extracted.push_back(s.extracted);
    finish.push_back(finish_name(s.completion.finish));
    rewards.push_back(float(s.reward));
    statuses.push_back(status_name(s.verdict));
    lengths.push_back(int32_t(s.completion.ids.size()));
  }
  JsonObject line;
  line.add("set", set)
      .add("row", group.prompt.id)
      .add("settings", settings)
      .add("prompt", group.prompt.text)
      .add("answer", group.prompt.answer)
      .add("samples", result.samples)
      .add("correct", result.correct)
      .add("pass_rate", result.pass_rate())
      .add("majority", result.majority)
      .add("reward", result.reward)
      .add("tokens", result.tokens)
      .add("truncated", result.truncated)
      .add("rewards", rewards)
      .add("extracted", extracted)
      .add("status", statuses)
      .add("finish", finish)
      .add("lengths", lengths)
      .add("responses", responses);
  if (!result.failure.empty()) line.add("failure", result.failure);
  file_->write_line(line.str());
}

}  // namespace mantissa
