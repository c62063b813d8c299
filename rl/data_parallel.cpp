#include "rl/data_parallel.h"

#include <cstring>

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

 private:
  void take(void* to, size_t count) {
    check(count <= bytes_.size() - at_, "[ranks] samples of another rank are cut short");
    if (count > 0) std::memcpy(to, bytes_.data() + at_, count);
    at_ += count;
  }
  const std::string& bytes_;
  size_t at_ = 0;
};

/// The one list of what travels of a sample; advantages are computed after it.
template <class Archive, class Sample>
void transfer(Archive& archive, Sample& sample) {
  auto& completion = sample.completion;
  archive.list(completion.ids);
  archive.list(completion.rollout_logprobs);
  archive.number(completion.finish);
  archive.number(completion.policy_version);
  archive.list(completion.text);
  archive.number(sample.reward);
  archive.list(sample.extracted);
}

}  // namespace

std::vector<size_t> own_groups(size_t count, const Comm& comm) {
  std::vector<size_t> own;
  for (size_t i = size_t(comm.rank()); i < count; i += size_t(comm.size())) own.push_back(i);
  return own;
}

void share_samples(std::span<RolloutGroup> groups, Comm& comm) {
  if (comm.size() == 1) return;
  Writer writer;
  for (const size_t g : own_groups(groups.size(), comm)) {
    writer.number(groups[g].samples.size());
    for (const RolloutSample& sample : groups[g].samples) transfer(writer, sample);
  }
  const std::vector<std::string> all = comm.gather(writer.bytes());
  std::vector<Reader> readers(all.begin(), all.end());
  for (size_t g = 0; g < groups.size(); ++g) {
    Reader& reader = readers[g % size_t(comm.size())];
    size_t samples = 0;
    reader.number(samples);
    groups[g].samples.resize(samples);
    for (RolloutSample& sample : groups[g].samples) transfer(reader, sample);
  }
}

void sum_metrics(Metrics& metrics, const std::string& prefix, Comm& comm) {
  std::vector<double> values;
  for (const auto& [name, value] : metrics.values())
    if (name.starts_with(prefix)) values.push_back(value);
  values = comm.reduce(values);
  size_t i = 0;
  for (const auto& [name, value] : std::vector(metrics.values()))
    if (name.starts_with(prefix)) metrics.set(name, values[i++]);
}

double IdleTime::fraction(Comm& comm, double step_seconds) {
  const std::vector<double> longest = comm.reduce(seconds_, Reduce::kMax), sum = comm.reduce(seconds_);
  seconds_.clear();
  double waited = 0.0;
  for (size_t i = 0; i < longest.size(); ++i) waited += double(comm.size()) * longest[i] - sum[i];
  return step_seconds > 0 ? waited / (double(comm.size()) * step_seconds) : 0.0;
}

}  // namespace mantissa
