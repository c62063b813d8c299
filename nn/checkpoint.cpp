#include "nn/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/comm/failure.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/registry.h"
#include "core/safetensors.h"

namespace mantissa {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr const char* kManifest = "MANIFEST";
constexpr const char* kState = "state.json";
constexpr const char* kConfig = "config.yaml";
constexpr const char* kPartial = ".partial";
constexpr const char* kStep = "step_";
constexpr const char* kBest = "best";
constexpr int kFormat = 1;

/// The files of kCheckpointBuffers.
constexpr const char* kBufferFiles[] = {"master.safetensors", "adam_m.safetensors", "adam_v.safetensors"};
static_assert(std::size(kBufferFiles) == std::size(kCheckpointBuffers));

/// The part of StepState that outlives a step.
struct StateField {
  const char* name;
  int32_t StepState::*value;
};
constexpr StateField kStateFields[] = {{"good_steps", &StepState::good_steps},
                                       {"skips_in_row", &StepState::skips_in_row},
                                       {"skips_total", &StepState::skips_total},
                                       {"adam_step", &StepState::adam_step}};

std::string hex(uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(value));
  return text;
}

/// N of a directory step_N, or of a link to one; -1 for any other name.
int64_t step_of(const fs::path& path) {
  const fs::path plain = path.has_filename() ? path : path.parent_path();  // step_5/ as well
  std::error_code ignored;
  if (fs::is_symlink(plain, ignored)) return step_of(fs::read_symlink(plain, ignored));
  const std::string name = plain.filename().string();
  const size_t digits = std::string_view(kStep).size();
  int64_t step = -1;
  if (!name.starts_with(kStep) || name.size() == digits) return -1;
  const auto [end, error] = std::from_chars(name.data() + digits, name.data() + name.size(), step);
  return error == std::errc() && end == name.data() + name.size() && str(kStep, step) == name ? step : -1;
}

// ---- manifest: lines "<checksum> <bytes> <name>", the last one "<checksum of the lines before> end" -----------------

std::string manifest_line(const fs::path& file) {
  const MappedFile map(file);
  return str(hex(hash64(map.bytes())), ' ', map.bytes().size(), ' ', file.filename().string(), '\n');
}

/// What to do about a damaged one.
std::string advice(const fs::path& directory) {
  return "; delete " + directory.string() + " to resume from an earlier checkpoint";
}

/// Throws where a file of a checkpoint is not there, or where the system does not let us look.
void check_there(const fs::path& path, const std::string& otherwise) {
  std::error_code error;
  const bool there = fs::exists(path, error);
  check(!error, path.string(), " cannot be read: ", error.message());
  check(there, path.string(), " is missing: the checkpoint is damaged", otherwise);
}

/// Name -> the line it must have.
std::map<std::string, std::string> read_manifest(const fs::path& directory) {
  const fs::path path = directory / kManifest;
  check(step_of(directory) >= 0, directory.string(), " is not a checkpoint: those are directories step_N");
  check_there(path, advice(directory));
  const std::string text = read_file(path, 1 << 16);
  std::map<std::string, std::string> lines;
  size_t begin = 0;
  for (size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const std::string line = text.substr(begin, end + 1 - begin);
    if (line == hex(hash64(std::string_view(text).substr(0, begin))) + " end\n") return lines;
    lines[line.substr(line.rfind(' ') + 1, line.size() - line.rfind(' ') - 2)] = line;
  }
  fail(path.string(), " is damaged: its last line does not match the lines before it", advice(directory));
}

/// Whether a file makes a checkpoint a model, and has no part of what is resumed.
bool is_of_model(const std::string& name) {
  return name != kState && (name.ends_with(".json") || name.ends_with(".jinja"));
}

void verify(const fs::path& directory, const std::map<std::string, std::string>& manifest, const std::string& name) {
  const auto expected = manifest.find(name);
  check(expected != manifest.end(), (directory / kManifest).string(), " does not list ", name, advice(directory));
  check_there(directory / name, is_of_model(name) ? "; put it back" : advice(directory));
  const std::string found = manifest_line(directory / name);
  check(found == expected->second, (directory / name).string(),
        is_of_model(name) ? " is not as it was written" : " is damaged", " (checksum, bytes, name): expected ",
        expected->second.substr(0, expected->second.size() - 1), ", found ", found.substr(0, found.size() - 1),
        is_of_model(name) ? "; put it back, and change it in an exported model" : advice(directory));
}

// ---- directories ----------------------------------------------------------------------------------------------------

/// What lies in `root`: nothing when it does not exist. One that cannot be read is an error, not an empty one.
std::vector<fs::path> entries_of(const fs::path& root) {
  std::error_code error;
  std::vector<fs::path> found;
  for (fs::directory_iterator at(root, error), end; !error && at != end; at.increment(error))
    found.push_back(at->path());
  check(!error || error == std::errc::no_such_file_or_directory, root.string(),
        ": checkpoints cannot be listed: ", error.message());
  return found;
}

/// Checkpoints by step.
std::map<int64_t, fs::path> list_checkpoints(const fs::path& root) {
  std::map<int64_t, fs::path> found;
  for (const fs::path& path : entries_of(root))
    if (path.filename().string().starts_with(kBest))  // a link
      continue;
    else if (const int64_t step = step_of(path); step >= 0)
      found[step] = path;
  return found;
}

/// Deletes a checkpoint so that no half of it can be taken for a whole one.
void retire(const fs::path& directory) {
  fs::path doomed = directory;
  doomed += str(".old", kPartial);
  std::error_code error;
  fs::remove_all(doomed, error);
  if (!error) fs::rename(directory, doomed, error);
  if (!error) fs::remove_all(doomed, error);
  check(!error, "cannot delete the old checkpoint ", directory.string(), ": ", error.message());
}

/// The link to the best checkpoint; none where it is not there.
void link_best(const fs::path& root, int64_t best) {
  const fs::path link = root / kBest, fresh = root / (str(kBest) + kPartial);
  std::error_code error;
  if (best < 0 || !file_exists(root / str(kStep, best))) {
    fs::remove(link, error);
    return;
  }
  fs::remove(fresh, error);
  fs::create_directory_symlink(str(kStep, best), fresh, error);
  if (!error) fs::rename(fresh, link, error);
  check(!error, link.string(), ": cannot be made: ", error.message());
}

/// Deletes the checkpoints up to `step` that `keep` does not name.
void drop_old(const fs::path& root, int64_t step, const Keep& keep) {
  link_best(root, keep.best);
  if (keep.last <= 0) return;
  std::map<int64_t, fs::path> old = list_checkpoints(root);
  old.erase(old.upper_bound(step), old.end());
  for (int64_t n = 0; n < keep.last && !old.empty(); ++n) old.erase(std::prev(old.end()));
  old.erase(keep.best);
  for (const fs::path& link : entries_of(root))  // of keep_best too
    if (link.filename().string().starts_with(kBest)) old.erase(step_of(link));
  for (const auto& [number, path] : old) retire(path);
}

// ---- content --------------------------------------------------------------------------------------------------------

/// What this process has of a buffer's parameters.
void write_parts(const fs::path& path, const ParamLayout& layout, const ParamBuffer& buffer, bool main) {
  const std::vector<ParamId> order = layout.by_unit();
  std::vector<TensorSpec> specs;
  for (const ParamId id : order) specs.push_back({layout[id].name, layout[id].whole_shape(), buffer.dtype()});
  SharedSafetensors file(path, std::move(specs), main);
  for (size_t i = 0; i < order.size(); ++i) {
    const ParamInfo& info = layout[order[i]];
    if (!buffer.holds(layout, order[i], 0, info.rows)) continue;
    const int64_t begin = std::max(layout.part(info.unit, buffer.shard()).begin, info.offset) - info.element(0);
    file.write(i, begin, buffer.rows(layout, order[i], 0, info.rows));
  }
  file.flush();
}

/// Does this process's share of a stage and waits for the others': what one of them throws all throw. Returns what the
/// main one returned.
std::string in_stage(Comm& comm, const std::function<std::string()>& share) {
  std::string said, error;
  try {
    said = share();
  } catch (const std::exception& e) {
    error = e.what();
  }
  const std::vector<std::string> errors = comm.gather_aside(error);
  for (size_t r = 0; r < errors.size(); ++r)
    if (!errors[r].empty()) throw RankFailed(int(r), errors[r]);
  return comm.gather_aside(said)[0];
}

std::string format_state(const CheckpointState& state, const StepState& step) {
  json record = {{"loss_scale", step.loss_scale}};
  for (const StateField& f : kStateFields) record[f.name] = step.*f.value;
  const json out = {{"format", kFormat},
                    {"step", state.step},
                    {"optimizer", record},
                    {"counters", state.counters},
                    {"texts", state.texts}};
  return out.dump(2) + "\n";
}

struct Read {
  CheckpointState state;
  StepState step;
};

Read read_state(const fs::path& directory, const std::map<std::string, std::string>& manifest) {
  for (const char* name : {kState, kConfig}) verify(directory, manifest, name);
  Read out;
  const fs::path path = directory / kState;
  try {
    const json in = json::parse(read_file(path));
    check(in.at("format") == kFormat, path.string(), ": format must be ", kFormat, ", got ", in.at("format").dump());
    out.state.step = in.at("step");
    out.state.counters = in.at("counters").get<std::map<std::string, int64_t>>();
    out.state.texts = in.at("texts").get<std::map<std::string, std::string>>();
    const json& record = in.at("optimizer");
    out.step.loss_scale = record.at("loss_scale");
    for (const StateField& f : kStateFields) out.step.*f.value = record.at(f.name);
  } catch (const json::exception& e) {
    fail(path.string(), ": ", e.what());
  }
  check(out.state.step == step_of(directory), path.string(), ": step must be that of the directory's name, got ",
        out.state.step);
  out.state.config = read_file(directory / kConfig);
  return out;
}

void read_buffer(const fs::path& path, const ParamLayout& layout, const ParamBuffer& buffer) {
  const Safetensors file(path);
  const std::vector<ParamInfo>& params = layout.params();
  for (const ParamInfo& p : params) {
    check(file.entries().count(p.name) > 0, path.string(), ": parameter ", p.name, " of the model is missing");
    check(file.shape(p.name) == p.whole_shape(), path.string(), ": ", p.name, " must have the model's shape ",
          p.whole_shape(), ", got ", file.shape(p.name));
  }
  check(file.entries().size() == params.size(), path.string(), " holds ", file.entries().size(),
        " parameters, the model has ", params.size());
  for (size_t i = 0; i < params.size(); ++i) {
    const ParamId id{int(i)};
    if (!buffer.holds(layout, id, 0, params[i].rows)) continue;
    Tensor host(cpu(), params[i].shape, buffer.dtype());
    file.read_rows(params[i].name, params[i].first_row, host);
    buffer.store(layout, id, params[i].first_row, host);
  }
}

}  // namespace

void CheckpointConfig::fields(Fields& f) {
  f.field("every", every, not_decisive("steps between checkpoints; 0 = only at the end or when stopped"), at_least(0));
  f.field("at_end", at_end, not_decisive("also after the last step; false: for a run that nobody is to go on from"));
  f.field("keep", keep, not_decisive("checkpoints kept; 0 = all"), at_least(0));
  f.field("best", best,
          not_decisive(
              "a metric: the checkpoint where it is highest is kept as checkpoints/best. One of eval.jsonl is looked "
              "at after each evaluation, one of metrics.jsonl where a checkpoint is written. Under another metric on "
              "resume the old one is kept, too, as checkpoints/best_step_N"));
  f.field("background", background,
          not_decisive("write checkpoints while training goes on, from a copy in host memory, or from where "
                       "distributed.offload keeps them"));
  f.field("export_model", export_model, not_decisive("write output_dir/model (Hugging Face) at the end"));
}

void write_checkpoint(const fs::path& root, const CheckpointState& state, const StepState& record,
                      const ParamSet& parts, Comm& comm, const Keep& keep) {
  std::optional<AtomicDirectory> target;
  std::string manifest;
  const auto listed = [&](const char* name) { manifest += manifest_line(target->partial() / name); };
  const fs::path partial = in_stage(comm, [&]() -> std::string {
    if (!comm.main()) return {};
    check(state.step >= 0, "[checkpoint] step must not be negative, got ", state.step);
    const fs::path directory = root / str(kStep, state.step);
    if (file_exists(directory)) retire(directory);  // the same step again
    target.emplace(directory);
    write_file(target->partial() / kState, format_state(state, record));
    listed(kState);
    write_file(target->partial() / kConfig, state.config);
    listed(kConfig);
    for (const auto& [name, text] : state.model_files) {
      write_file(target->partial() / name, text);
      listed(name.c_str());
    }
    return fs::absolute(target->partial()).string();
  });
  in_stage(comm, [&]() -> std::string {
    for (size_t i = 0; i < std::size(kBufferFiles); ++i)
      write_parts(partial / kBufferFiles[i], parts.layout, parts.*kCheckpointBuffers[i], comm.main());
    return {};
  });
  in_stage(comm, [&]() -> std::string {
    if (!comm.main()) return {};
    for (const char* file : kBufferFiles) listed(file);
    write_file(target->partial() / kManifest, manifest + hex(hash64(manifest)) + " end\n");
    target->commit();
    drop_old(root, state.step, keep);
    return {};
  });
}

void save_checkpoint(const fs::path& root, const CheckpointState& state, const ParamSet& params,
                     const Optimizer& optimizer, const Keep& keep) {
  write_checkpoint(root, state, optimizer.read_state(), params, optimizer.comm(), keep);
}

std::optional<fs::path> latest_checkpoint(const fs::path& root) {
  const std::map<int64_t, fs::path> found = list_checkpoints(root);
  if (found.empty()) return {};
  return found.rbegin()->second;
}

void clean_checkpoints(const fs::path& root) {
  for (const fs::path& path : entries_of(root)) {
    const std::string name = path.filename().string();
    if (!name.starts_with(kStep) || !name.ends_with(kPartial)) continue;
    std::error_code error;
    fs::remove_all(path, error);
    check(!error, "cannot remove the unfinished checkpoint ", path.string(), ": ", error.message());
  }
}

bool has_checkpoints_after(const fs::path& root, int64_t step) {
  const std::map<int64_t, fs::path> found = list_checkpoints(root);
  return found.upper_bound(step) != found.end();
}

void move_checkpoints_after(const fs::path& root, int64_t step, const fs::path& aside) {
  std::error_code error;
  const auto move = [&](const fs::path& from) {
    if (!error) fs::rename(from, aside / from.filename(), error);
    check(!error, from.string(), ": cannot be moved to ", aside.string(), ": ", error.message());
  };
  fs::create_directories(aside, error);
  for (const auto& [number, path] : list_checkpoints(root))
    if (number > step) move(path);
  for (const fs::path& best : entries_of(root))  // a relative link names the same one there
    if (best.filename().string().starts_with(kBest) && fs::is_symlink(best) && !fs::exists(best)) move(best);
}

fs::path keep_best(const fs::path& root) {
  const fs::path link = root / kBest;
  const int64_t step = step_of(link);
  if (step < 0 || !file_exists(link)) return {};
  const fs::path kept = root / str(kBest, '_', kStep, step);
  std::error_code error;
  fs::rename(link, kept, error);
  check(!error, link.string(), ": cannot be renamed to ", kept.string(), ": ", error.message());
  return kept;
}

bool is_checkpoint(const fs::path& directory) {
  return step_of(directory) >= 0 && file_exists(directory / kManifest);
}

void read_checkpoint_weights(const fs::path& directory, const ParamLayout& layout, const ParamBuffer& buffer) {
  constexpr const char* kMasters = kBufferFiles[0];
  verify(directory, read_manifest(directory), kMasters);
  read_buffer(directory / kMasters, layout, buffer);
}

void verify_model_files(const fs::path& directory) {
  const std::map<std::string, std::string> manifest = read_manifest(directory);
  for (const auto& [file, line] : manifest)
    if (is_of_model(file)) verify(directory, manifest, file);
}

CheckpointState read_checkpoint_state(const fs::path& directory) {
  return read_state(directory, read_manifest(directory)).state;
}

CheckpointState load_checkpoint(const fs::path& directory, Exec& exec, ParamSet& params, Optimizer& optimizer) {
  const std::map<std::string, std::string> manifest = read_manifest(directory);
  Read read = read_state(directory, manifest);
  for (const auto& [file, line] : manifest) verify(directory, manifest, file);
  for (size_t i = 0; i < std::size(kBufferFiles); ++i)
    read_buffer(directory / kBufferFiles[i], params.layout, params.*kCheckpointBuffers[i]);
  refresh_copies(exec, params, optimizer.comm());
  optimizer.write_state(read.step);
  return read.state;
}

}  // namespace mantissa
