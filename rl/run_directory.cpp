#include "rl/run_directory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "nn/formats/peft.h"
#include "nn/model.h"
#include "rl/data/prompt_template.h"
#include "rl/logging/log.h"
#include "rl/unread_keys.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;

/// The config, by which a directory is known as a run's, goes last when all are deleted.
constexpr const char* kWritten[] = {"metrics.jsonl", "sft.jsonl", "eval.jsonl",  "samples.jsonl", "checkpoints",
                                    "model",         "adapter",   "tensorboard", "aside",         "config.yaml"};
constexpr const char* kConfigHead = "# mantissa ";

/// Names of what runs write into the folders of kWritten, folders of theirs included; "*" stands for any text.
constexpr std::string_view kInFolders[] = {"step_*",
                                           "best",
                                           "best_step_*",
                                           "*.partial",
                                           "state.json",
                                           "config.yaml",
                                           "MANIFEST",
                                           "master.safetensors",
                                           "adam_m.safetensors",
                                           "adam_v.safetensors",
                                           "base.bin",
                                           "config.json",
                                           "generation_config.json",
                                           "tokenizer.json",
                                           "tokenizer_config.json",
                                           "added_tokens.json",
                                           "special_tokens_map.json",
                                           "chat_template.jinja",
                                           "model.safetensors",
                                           "model-*.safetensors",
                                           "model.safetensors.index.json",
                                           "adapter_config.json",
                                           "adapter_model.safetensors",
                                           "events.out.tfevents.*",
                                           "after_step_*",
                                           "metrics.jsonl",
                                           "sft.jsonl",
                                           "eval.jsonl",
                                           "samples.jsonl",
                                           "checkpoints",
                                           "model",
                                           "adapter"};

bool is_of_runs(std::string_view name) {
  return std::ranges::any_of(kInFolders, [&](std::string_view known) {
    const size_t star = known.find('*');
    if (star == known.npos) return name == known;
    return name.size() >= known.size() - 1 && name.starts_with(known.substr(0, star)) &&
           name.ends_with(known.substr(star + 1));
  });
}

/// Throws where a folder that is to be deleted holds what no run writes, or cannot be emptied; a file is no folder.
void check_own(const fs::path& folder, const char* what) {
  std::error_code error;
  const auto check_writable = [&](const fs::path& path) {
    std::error_code ignored;
    if (!fs::is_directory(path, ignored) || fs::is_symlink(path, ignored)) return;
    const bool may = ::faccessat(AT_FDCWD, path.c_str(), R_OK | W_OK | X_OK, AT_EACCESS) == 0;
    const char* reason = std::strerror(errno);
    check(may, path.string(), ": ", what, " would delete it, and its files cannot be: ", reason);
  };
  check_writable(folder);
  for (fs::recursive_directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename().string();
    check(is_of_runs(name), at->path().string(), ": was not written by a run, and ", what, " would delete it with ",
          folder.string(), "; move it away, or use another run.output_dir");
    check_writable(at->path());
    if (name.ends_with(".partial")) at.disable_recursion_pending();
  }
}

bool on_one_disk(const fs::path& a, const fs::path& b) {
  struct stat one = {}, other = {};
  return ::stat(a.c_str(), &one) == 0 && ::stat(b.c_str(), &other) == 0 && one.st_dev == other.st_dev;
}

bool is_empty_directory(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored) && fs::is_empty(path, ignored);
}

}  // namespace

RunDirectory::RunDirectory(const RunConfig& config, const StartOptions& start)
    : config_(config), path_(config.output_dir()) {
  std::error_code error;
  fs::create_directories(path_, error);
  check(!error, path_.string(), ": output directory cannot be made: ", error.message());
  lock_.emplace(path_);
  { AtomicFile probe(path_ / ".mantissa_probe"); }  // fails early where nothing can be written
  choose_start(start);
  if (!start.overwrite && file_exists(checkpoints())) AtomicFile probe(checkpoints() / ".mantissa_probe");
}

void RunDirectory::choose_start(const StartOptions& start) {
  std::error_code error;
  if (start.resume == "auto") {
    clean_checkpoints(checkpoints());
    checkpoint_ = latest_checkpoint(checkpoints());
    if (checkpoint_) {
      check_replaceable();
      return compare_configs();
    }
    check_deletable();
    check(!file_exists(model()) && !file_exists(adapter()), path_.string(),
          ": holds the model of a finished run and no checkpoint to resume from; use --overwrite to start anew, or "
          "another run.output_dir");
    check(
        !file_exists(path_ / "aside"), (path_ / "aside").string(),
        ": holds what a run went back from, and there is no checkpoint to resume from; use --overwrite to start anew, "
        "or another run.output_dir");
    log_info("no checkpoint in " + checkpoints().string() + ": starting anew");
    return;
  }
  if (!start.resume.empty()) {
    check(fs::is_directory(start.resume, error), start.resume, ": --resume takes \"auto\" or a checkpoint directory");
    checkpoint_ = fs::canonical(start.resume);
    foreign_ = checkpoint_->parent_path() != fs::weakly_canonical(checkpoints());
    compare_configs();
    if (!foreign_) {  // what comes after it is moved aside, the model too
      if (latest_checkpoint(checkpoints())->filename() == checkpoint_->filename()) check_replaceable();
      return;
    }
  }
  start.overwrite ? check_deletable() : check_unused();
}

void RunDirectory::check_unused() const {
  for (const char* name : kWritten)
    check(!file_exists(path_ / name), path_.string(), ": holds ", name,
          " of an earlier run; use --resume auto to go on with it, --overwrite to start anew, or another "
          "run.output_dir");
}

/// What starting anew deletes must be a run's, and nothing that this run reads.
void RunDirectory::check_deletable() const {
  const fs::path saved_config = path_ / "config.yaml";
  std::vector<std::string> inputs = config_.data.files;
  inputs.insert(inputs.end(), config_.eval.files.begin(), config_.eval.files.end());
  inputs.push_back(config_.model.path);
  if (config_.lora.from_directory()) inputs.push_back(config_.lora.init);
  for (const char* name : kWritten) {
    const fs::path doomed = path_ / name;
    if (!file_exists(doomed) || is_empty_directory(doomed)) continue;
    check(file_exists(saved_config) && read_file(saved_config).starts_with(kConfigHead), doomed.string(),
          ": was not written by a run (whose config.yaml begins with \"", kConfigHead,
          "\"), so starting anew does not delete it; move it away, or use another run.output_dir");
    check_own(doomed, "starting anew");
    for (const std::string& input : inputs) {
      const fs::path inside = fs::weakly_canonical(input).lexically_relative(fs::weakly_canonical(doomed));
      check(inside.empty() || *inside.begin() == "..", input, ": lies in ", doomed.string(),
            ", which starting anew deletes; use another run.output_dir");
    }
  }
}

void RunDirectory::check_replaceable() const {
  if (config_.checkpoint.export_model) check_own(config_.lora.active() ? adapter() : model(), "the run's end");
}

/// Refuses a checkpoint that was made under another config. A key that the checkpoint's version did not know yet had
/// what is its default now; what no chat template reads, which earlier versions let stand, may be gone.
void RunDirectory::compare_configs() {
  const CheckpointState state = read_checkpoint_state(*checkpoint_);
  RunConfig before = parse_saved_config(state.config, (*checkpoint_ / "config.yaml").string());
  DataConfig& data = before.data;
  if (data.system != config_.data.system || data.chat_template_kwargs != config_.data.chat_template_kwargs)
    for (const std::string& key : take_out_unread(data, load_tokenizer_files(config_.model.path)))
      unread_.push_back(
          str(checkpoint_->string(), ": was made with ", key, ", which nothing reads: it may be left out"));
  const std::vector<KeyDifference> apart = different_keys(effective_keys(before), effective_keys(config_));
  for (const KeyDifference& difference : apart)
    check(!difference.key.decisive, checkpoint_->string(), ": was made under another config: ", difference.text("now"));
  if (config_.lora.from_directory()) {  // effective_keys leaves out what the adapter says
    const AdapterConfig was = read_adapter_config(*checkpoint_), is = read_adapter_config(config_.lora.init);
    check(was == is, checkpoint_->string(), ": was made with an adapter of ", was.text(), ", now that of lora.init, ",
          config_.lora.init, ", is of ", is.text());
  }
  for (const KeyDifference& difference : apart)
    if (difference.key.name == "train.steps" && config_.optim.schedule != "constant")
      log_warning(str("train.steps was ", difference.first, ", now ", difference.second, ": from here on the learning ",
                      "rate follows the ", config_.optim.schedule, " schedule of the new length"));
}

/// A folder that is a link, to a larger disk say, stays one, and is emptied.
void RunDirectory::clear() const {
  std::error_code error;
  const auto remove = [&](const fs::path& path) {
    fs::remove_all(path, error);
    check(!error, path.string(), ": cannot be deleted: ", error.message());
  };
  for (const char* name : kWritten) {
    if (const fs::path path = path_ / name; fs::is_symlink(path) && fs::is_directory(path))
      for (const auto& entry : fs::directory_iterator(path)) remove(entry.path());
    else
      remove(path);
  }
}

void RunDirectory::write_config(const std::string& about) const {
  write_file(path_ / "config.yaml", str(kConfigHead, MANTISSA_VERSION, about, "\n", format_run_config(config_)));
}

std::vector<RunDirectory::File> RunDirectory::files() const {
  return {{config_.train.mode == "sft" ? "sft.jsonl" : "metrics.jsonl", "metrics_bytes", &RunDirectory::metrics_file_},
          {"eval.jsonl", "eval_bytes", &RunDirectory::eval_file_},
          {"samples.jsonl", "samples_bytes", &RunDirectory::samples_file_}};
}

/// Empty ones, or what the checkpoint saw of them.
void RunDirectory::open_files(int64_t step, const CheckpointState* state) {
  for (const File& f : files())
    (this->*f.file).emplace(path_ / f.name, state ? counter_of(*state, f.counter, *checkpoint_) : 0);
  if (config_.logging.tensorboard) event_file_.emplace(path_ / "tensorboard", step + 1);
}

void RunDirectory::each_step(const std::function<void(const Metrics&)>& step) const {
  const fs::path path = path_ / files()[0].name;
  std::ifstream file(path, std::ios::binary);
  std::string line;
  while (read_line(file, line, size_t(1) << 20, path.string())) try {
      step(parse_metrics(line));
    } catch (const nlohmann::json::exception& e) {
      fail(path.string(), ": must hold a line of JSON for each step, got \"", line.substr(0, 80), "\": ", e.what());
    }
}

void RunDirectory::begin(const std::string& about) {
  clear();
  write_config(about);  // first: by it the directory is known as a run's
  open_files(0, nullptr);
}

/// Copies of the lines first, the checkpoints last: while one is there, the same command moves the rest.
void RunDirectory::move_aside(const CheckpointState& state) const {
  check(on_one_disk(checkpoints(), path_), checkpoints().string(), ": must be on the disk of ", path_.string(),
        ", where later checkpoints are moved, to go back to step ", state.step,
        ": got a link or mount of another disk");
  const std::string name = str("after_step_", state.step);
  fs::path aside = path_ / "aside" / name;
  for (int again = 2; file_exists(aside); ++again) aside = path_ / "aside" / str(name, '_', again);
  std::error_code error;
  fs::create_directories(aside, error);
  for (const File& f : files()) {
    if (!file_exists(path_ / f.name)) continue;
    const MappedFile whole(path_ / f.name);
    const auto later = whole.bytes().subspan(size_t(counter_of(state, f.counter, *checkpoint_)));
    if (!later.empty()) write_file(aside / f.name, {reinterpret_cast<const char*>(later.data()), later.size()});
  }
  for (const fs::path& made : {model(), adapter()})
    if (!error && file_exists(made)) fs::rename(made, aside / made.filename(), error);
  check(!error, aside.string(), ": what came after step ", state.step, " cannot be moved there: ", error.message());
  move_checkpoints_after(checkpoints(), state.step, aside / "checkpoints");
  log_warning(str("back to step ", state.step, ": what came after it is now in ", aside.string()));
}

bool RunDirectory::resume(const CheckpointState& state, const std::string& about) {
  for (const std::string& text : unread_) log_info(text);
  if (foreign_) {
    clear();
    write_config(about);
    open_files(state.step, nullptr);
    return false;
  }
  for (const File& f : files()) {  // before anything is deleted
    const int64_t seen = counter_of(state, f.counter, *checkpoint_);
    std::error_code error;
    const auto size = fs::file_size(path_ / f.name, error);
    check(seen == 0 || (!error && int64_t(size) >= seen), (path_ / f.name).string(), ": must hold the ", seen,
          " bytes that ", checkpoint_->string(), " saw, got ", error ? 0 : int64_t(size));
  }
  if (has_checkpoints_after(checkpoints(), state.step)) move_aside(state);
  write_config(about);
  open_files(state.step, &state);
  return true;
}

void RunDirectory::log(GrowingFile& file, const Metrics& metrics) {
  file.write_line(to_json_line(metrics));
  if (event_file_) event_file_->write(metrics);
}

void RunDirectory::record_lengths(CheckpointState& state) {
  for (const File& f : files()) {
    GrowingFile& file = *(this->*f.file);
    file.sync();
    state.counters[f.counter] = file.bytes();
  }
}

int64_t counter_of(const CheckpointState& state, const std::string& name, const fs::path& checkpoint) {
  const auto it = state.counters.find(name);
  check(it != state.counters.end(), checkpoint.string(), ": state.json has no counter ", name);
  return it->second;
}

}  // namespace mantissa
