#include "rl/data_parallel.h"

#include <algorithm>
#include <cmath>

namespace mantissa {
namespace {

/// Values one behind the other, as they lie in memory.
class Writer {
 public:
  template <class T>
  void number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  template <class List>
  void list(const List& values) {
    number(values.size());
    bytes_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof values[0]);
  }
  void list(const std::shared_ptr<const TokenRoutes::Bytes>& values) {
    number(values != nullptr);
    if (values) list(*values);
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

class Reader {
 public:
  explicit Reader(const std::string& bytes) : bytes_(bytes) {}

  template <class T>
  void number(T& value) {
    take(&value, sizeof value);
  }
  template <class List>
  void list(List& values) {
    size_t count = 0;
    number(count);
    check(count <= (bytes_.size() - at_) / sizeof values[0], "[ranks] samples of another rank are cut short");
    values.resize(count);
    take(values.data(), count * sizeof values[0]);
  }
  void list(std::shared_ptr<const TokenRoutes::Bytes>& values) {
    bool there = false;
    number(there);
    auto own = std::make_shared<TokenRoutes::Bytes>();
    if (there) list(*own);
    values = there ? own : nullptr;
  }
  bool done() const { return at_ == bytes_.size(); }

 private:
  void take(void* to, size_t count) {
    check(count <= bytes_.size() - at_, "[ranks] samples of another rank are cut short");
    if (count > 0) std::memcpy(to, bytes_.data() + at_, count);
    at_ += count;
  }
  const std::string& bytes_;
  size_t at_ = 0;
};

/// The one list of what travels of a sample, but for its prompt's routes; advantages are computed after it.
template <class Archive, class Sample>
void transfer(Archive& archive, Sample& sample) {
  auto& completion = sample.completion;
  archive.list(completion.ids);
  archive.list(completion.rollout_logprobs);
  archive.number(completion.finish);
  archive.number(completion.policy_version);
  archive.list(completion.text);
  archive.list(completion.routes.response);
  archive.number(sample.reward);
  archive.list(sample.rewards);
  archive.number(sample.correct);
  archive.list(sample.extracted);
  archive.list(sample.reason);
  archive.number(sample.status);
  archive.number(sample.verdict);
}

}  // namespace

void sample_own(Engine& engine, std::span<RolloutGroup> groups, int n, const GenerateOptions& options, Comm& comm) {
  const size_t ranks = size_t(comm.size());
  const bool by_need = ranks > 1 && engine.exact();
  GenerateOptions taken = options;
  if (by_need) {
    comm.begin_handout();
    taken.next = [&] { return size_t(comm.next()); };
    taken.at_once = std::max<int64_t>(1, int64_t((groups.size() * size_t(n) + ranks - 1) / ranks));
  }
  std::vector<RolloutGroup*> own;
  std::vector<Request> requests;
  for (size_t g = by_need ? 0 : size_t(comm.rank()); g < groups.size(); g += by_need ? 1 : ranks) {
    own.push_back(&groups[g]);
    requests.push_back({.prompt = &groups[g].prompt, .n = n});
  }
  std::vector<std::vector<Completion>> completions = engine.generate(requests, taken);
  for (size_t i = 0; i < own.size(); ++i)
    for (Completion& completion : completions[i]) own[i]->samples.emplace_back().completion = std::move(completion);
}

void share_samples(std::span<RolloutGroup> groups, Comm& comm) {
  if (comm.size() == 1) return;
  Writer writer;
  for (size_t g = 0; g < groups.size(); ++g) {
    if (groups[g].samples.empty()) continue;
    writer.number(g);
    writer.number(groups[g].samples.size());
    writer.list(groups[g].samples[0].completion.routes.prompt);
    for (const RolloutSample& sample : groups[g].samples) transfer(writer, sample);
  }
  const std::vector<std::string> all = comm.gather(writer.bytes());
  std::vector<int> owners(groups.size(), -1);
  for (int rank = 0; rank < comm.size(); ++rank)
    for (Reader reader(all[size_t(rank)]); !reader.done();) {
      size_t g = 0, samples = 0;
      reader.number(g);
      reader.number(samples);
      check(g < groups.size() && owners[g] < 0, "[ranks] rank ", rank, " has samples of group ", g, " of ",
            groups.size(), g < groups.size() ? str(", and so has rank ", owners[g]) : std::string());
      owners[g] = rank;
      groups[g].samples.resize(samples);
      std::shared_ptr<const TokenRoutes::Bytes> prompt;
      reader.list(prompt);
      for (RolloutSample& sample : groups[g].samples) {
        transfer(reader, sample);
        sample.completion.routes.prompt = prompt;
      }
    }
  for (size_t g = 0; g < groups.size(); ++g)
    check(owners[g] >= 0, "[ranks] no rank has samples of group ", g, " of ", groups.size());
}

void add_counters(Metrics& metrics, const Metrics& own, Comm& comm) {
  std::vector<double> values;
  for (const auto& [name, value] : own.values()) values.push_back(value);
  values = comm.reduce(values);
  for (size_t i = 0; i < values.size(); ++i) {
    const std::string& name = own.values()[i].first;
    const double before = metrics.get(name);
    metrics.set(name, values[i] + (std::isnan(before) ? 0.0 : before));
  }
}

double IdleTime::fraction(Comm& comm, double step_seconds) {
  const std::vector<double> longest = comm.reduce(seconds_, Reduce::kMax), sum = comm.reduce(seconds_);
  seconds_.clear();
  double waited = 0.0;
  for (size_t i = 0; i < longest.size(); ++i) waited += double(comm.size()) * longest[i] - sum[i];
  return step_seconds > 0 ? waited / (double(comm.size()) * step_seconds) : 0.0;
}

}  // namespace mantissa
