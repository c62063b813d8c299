// Checkpoints: the same bits come back, damage is named, a failed or killed save leaves the old one whole.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <fstream>

#include "core/file.h"
#include "core/hash.h"
#include "core/random.h"
#include "core/registry.h"
#include "nn/checkpoint.h"
#include "tests/support/message.h"
#include "tests/support/other_user.h"
#include "tests/support/temp_dir.h"

namespace mantissa {
namespace {
namespace fs = std::filesystem;

class Trained {
 public:
  explicit Trained(uint64_t seed, Shape matrix = {40, 7}) {
    const int unit = params.layout.add_unit("layer");
    params.layout.add(unit, "layer.matrix", matrix, true);
    params.layout.add(unit, "layer.norm", {7}, false);
    params.layout.finish();
    params.compute = ParamBuffer(exec, params.layout, Dtype::kF16);
    OptimConfig optim;
    optim.lr = 0.01;
    optimizer.emplace(exec, params, optim, ScalerConfig{}, 100);
    randomise(params.master, seed);
    refresh_copies(exec, params);
  }
  void randomise(const ParamBuffer& buffer, uint64_t seed) {
    RandomStream random(seed, 1);
    for (size_t i = 0; i < params.layout.params().size(); ++i)
      for (int64_t k = 0; k < buffer[ParamId{int(i)}].numel(); ++k)
        buffer[ParamId{int(i)}].data<float>()[k] = random.uniform() - 0.5f;
  }
  void train(int64_t from, int64_t to) {
    for (int64_t s = from; s < to; ++s) {
      optimizer->zero_grad();
      randomise(params.grad, uint64_t(1000 + s));
      if (s % 5 == 2) params.grad.flat().data<float>()[0] = std::numeric_limits<float>::infinity();
      optimizer->step();
    }
  }
  CheckpointState state(int64_t step) const {
    return {step,
            "run:\n  name: x\n",
            {{"cursor", 7 * step}, {"seed", -3}},
            {{"data_hash", "ab\"c\n"}},
            {{"config.json", "{}\n"}}};
  }
  void save(const fs::path& root, int64_t step, const Keep& keep = {}) {
    save_checkpoint(root, state(step), params, *optimizer, keep);
  }

  Exec exec{cpu()};
  ParamSet params;
  std::optional<Optimizer> optimizer;
};

void expect_same(const Trained& a, const Trained& b) {
  for (const auto buffer : {&ParamSet::compute, &ParamSet::master, &ParamSet::m, &ParamSet::v}) {
    const Tensor &x = (a.params.*buffer).flat(), &y = (b.params.*buffer).flat();
    EXPECT_EQ(std::memcmp(x.raw(), y.raw(), x.bytes()), 0);
  }
  const StepState s = a.optimizer->read_state(), t = b.optimizer->read_state();
  EXPECT_EQ(s.loss_scale, t.loss_scale);
  EXPECT_EQ(s.good_steps, t.good_steps);
  EXPECT_EQ(s.skips_in_row, t.skips_in_row);
  EXPECT_EQ(s.skips_total, t.skips_total);
  EXPECT_EQ(s.adam_step, t.adam_step);
}

std::vector<std::string> names_in(const fs::path& root) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(root)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

TEST(Hash, KnownValues) {
  EXPECT_EQ(hash64(""), 0xEF46DB3751D8E999ull);
  EXPECT_EQ(hash64("a"), 0xD24EC4F1A98C6E5Bull);
  EXPECT_EQ(hash64("abc"), 0x44BC2CF5AD770999ull);
  EXPECT_EQ(hash64("Nobody inspects the spammish repetition"), 0xFBCEA83C8A378BF1ull);
}

TEST(Hash, PiecesHashAsTheWhole) {
  std::string text;
  for (int i = 0; i < 200; ++i) text += char(i * 37);
  for (const size_t piece : {1, 7, 31, 32, 33, 64, 100}) {
    Hash64 hash;
    for (size_t at = 0; at < text.size(); at += piece)
      hash.add(std::as_bytes(std::span(text).subspan(at, std::min(piece, text.size() - at))));
    EXPECT_EQ(hash.value(), hash64(text)) << piece;
  }
}

TEST(Checkpoint, ResumedRunHasTheSameBits) {
  TempDir dir;
  Trained whole(1);
  whole.train(0, 13);
  whole.save(dir / "checkpoints", 13);
  whole.train(13, 20);

  Trained resumed(99);
  resumed.train(0, 2);
  const auto latest = latest_checkpoint(dir / "checkpoints");
  ASSERT_TRUE(latest);
  const CheckpointState state = load_checkpoint(*latest, resumed.exec, resumed.params, *resumed.optimizer);
  EXPECT_EQ(state.step, 13);
  EXPECT_EQ(state.config, "run:\n  name: x\n");
  EXPECT_EQ(state.counters.at("cursor"), 91);
  EXPECT_EQ(state.counters.at("seed"), -3);
  EXPECT_EQ(state.texts.at("data_hash"), "ab\"c\n");
  EXPECT_EQ(read_checkpoint_state(*latest).counters, state.counters);
  resumed.train(13, 20);
  expect_same(whole, resumed);
}

TEST(Checkpoint, KeepsTheLastAndFindsTheLatest) {
  TempDir dir;
  Trained run(1);
  EXPECT_FALSE(latest_checkpoint(dir / "nowhere"));
  EXPECT_FALSE(latest_checkpoint(dir.path()));
  for (const int64_t step : {2, 9, 10, 100}) run.save(dir.path(), step, {.last = 3});
  EXPECT_EQ(names_in(dir.path()), (std::vector<std::string>{"step_10", "step_100", "step_9"}));
  fs::create_directory(dir / "step_200.partial");
  fs::create_directory(dir / "step_x");
  EXPECT_EQ(*latest_checkpoint(dir.path()), dir / "step_100");
  clean_checkpoints(dir.path());
  EXPECT_FALSE(fs::exists(dir / "step_200.partial"));
  EXPECT_TRUE(fs::exists(dir / "step_x"));
  fs::remove(dir / "step_100/MANIFEST");  // damaged, and still the latest
  EXPECT_EQ(*latest_checkpoint(dir.path()), dir / "step_100");
  EXPECT_NE(message_of([&] { read_checkpoint_state(dir / "step_100"); }).find("MANIFEST is missing"),
            std::string::npos);
  EXPECT_NE(message_of([&] { read_checkpoint_state(dir / "step_x"); }).find("is not a checkpoint"), std::string::npos);

  // Going back: the step that is saved stays, whatever later ones there are.
  run.save(dir.path(), 9, {.last = 1});
  EXPECT_TRUE(fs::exists(dir / "step_9/MANIFEST"));
  EXPECT_TRUE(fs::exists(dir / "step_100"));
}

TEST(Checkpoint, TheBestStaysBesideTheLast) {
  TempDir dir;
  Trained run(1);
  const auto save = [&](int64_t step, int64_t best) { run.save(dir.path(), step, {.last = 1, .best = best}); };
  save(1, -1);
  EXPECT_EQ(names_in(dir.path()), (std::vector<std::string>{"step_1"}));
  save(2, 2);
  save(3, 2);
  save(4, 2);
  EXPECT_EQ(names_in(dir.path()), (std::vector<std::string>{"best", "step_2", "step_4"}));
  EXPECT_TRUE(is_checkpoint(dir / "best"));
  EXPECT_TRUE(is_checkpoint(dir / "best/"));
  EXPECT_EQ(read_checkpoint_state(dir / "best").step, 2);
  EXPECT_EQ(*latest_checkpoint(dir.path()), dir / "step_4");
  save(5, 5);
  EXPECT_EQ(names_in(dir.path()), (std::vector<std::string>{"best", "step_5"}));
  save(6, 2);  // a run that went back behind it, and whose best is gone
  EXPECT_EQ(names_in(dir.path()), (std::vector<std::string>{"step_6"}));
}

TEST(Checkpoint, AnEarlierBestStaysBesideTheBest) {
  TempDir dir;
  Trained run(1);
  const auto save = [&](int64_t step, int64_t best) { run.save(dir.path(), step, {.last = 1, .best = best}); };
  EXPECT_EQ(keep_best(dir.path()), fs::path());
  save(1, 1);
  EXPECT_EQ(keep_best(dir.path()), dir / "best_step_1");
  EXPECT_EQ(keep_best(dir.path()), fs::path());
  save(2, 2);
  save(3, 2);
  save(4, -1);
  EXPECT_EQ(names_in(dir.path()), (std::vector<std::string>{"best_step_1", "step_1", "step_4"}));
  EXPECT_EQ(read_checkpoint_state(dir / "best_step_1").step, 1);
  EXPECT_EQ(*latest_checkpoint(dir.path()), dir / "step_4");
  fs::create_directories(dir / "aside");
  move_checkpoints_after(dir.path(), 0, dir / "aside");
  EXPECT_EQ(names_in(dir / "aside"), (std::vector<std::string>{"best_step_1", "step_1", "step_4"}));
}

TEST(Checkpoint, DamageIsNamed) {
  Trained run(1);
  run.train(0, 3);
  const char* files[] = {"state.json",         "config.yaml",        "config.json", "master.safetensors",
                         "adam_m.safetensors", "adam_v.safetensors", "MANIFEST"};
  for (const char* file : files) {
    for (const bool truncate : {false, true}) {
      TempDir dir;
      run.save(dir.path(), 3);
      const fs::path path = dir / "step_3" / file;
      std::string content = read_file(path);
      if (truncate)
        content.pop_back();
      else
        content[content.size() / 2] ^= 1;
      std::ofstream(path, std::ios::binary) << content;
      Trained other(2);
      const float before = other.params.master.flat().data<float>()[0];
      const std::string message =
          message_of([&] { load_checkpoint(dir / "step_3", other.exec, other.params, *other.optimizer); });
      const bool config = file == std::string("config.json");
      EXPECT_NE(message.find(path.string() + (config ? " is not as it was written" : " is damaged")), std::string::npos)
          << file << ": " << message;
      EXPECT_EQ(message.find("; delete " + (dir / "step_3").string()) == message.npos, config) << message;
      EXPECT_EQ(other.params.master.flat().data<float>()[0], before) << "nothing is loaded from a damaged one";
      const bool of_model = config || file == std::string("MANIFEST");
      EXPECT_EQ(message_of([&] { verify_model_files(dir / "step_3"); }).empty(), !of_model) << file;
    }
    TempDir dir;
    run.save(dir.path(), 3);
    fs::remove(dir / "step_3" / file);
    Trained other(2);
    const std::string message =
        message_of([&] { load_checkpoint(dir / "step_3", other.exec, other.params, *other.optimizer); });
    EXPECT_NE(message.find(file + std::string(" is missing: the checkpoint is damaged; ")), message.npos) << message;
    EXPECT_NE(message.find(file == std::string("config.json") ? "put it back" : "delete "), message.npos) << message;
  }
}

TEST(Checkpoint, OneThatMayNotBeReadIsNotDamaged) {
  TempDir dir;
  Trained run(1);
  run.save(dir.path(), 3);
  fs::permissions(dir.path(), fs::perms::all);
  fs::permissions(dir / "step_3", fs::perms::none);
  const std::string message = as_other_user([&] { return message_of([&] { read_checkpoint_state(dir / "step_3"); }); });
  fs::permissions(dir / "step_3", fs::perms::owner_all);
  EXPECT_NE(message.find("step_3/MANIFEST cannot be read: Permission denied"), message.npos) << message;
  EXPECT_EQ(message.find("delete"), message.npos) << message;
}

TEST(Checkpoint, OtherModelIsRefused) {
  TempDir dir;
  Trained run(1), other(1, {40, 8});
  run.save(dir.path(), 3);
  const std::string message =
      message_of([&] { load_checkpoint(dir / "step_3", other.exec, other.params, *other.optimizer); });
  EXPECT_NE(message.find("layer.matrix must have the model's shape [40,8], got [40,7]"), std::string::npos) << message;
}

TEST(Checkpoint, FailedSaveLeavesTheOldOne) {
  TempDir dir;
  Trained run(1);
  run.save(dir.path(), 1);
  // A limit on file sizes fails the writes the way a full disk does.
  rlimit old{};
  ::getrlimit(RLIMIT_FSIZE, &old);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  rlimit small = old;
  small.rlim_cur = 700;
  ::setrlimit(RLIMIT_FSIZE, &small);
  const std::string message = message_of([&] { run.save(dir.path(), 2, {.last = 1}); });
  ::setrlimit(RLIMIT_FSIZE, &old);
  ::signal(SIGXFSZ, handler);
  EXPECT_NE(message.find("step_2.partial/master.safetensors"), std::string::npos) << message;
  EXPECT_NE(message.find("File too large"), std::string::npos) << message;
  EXPECT_EQ(names_in(dir.path()), std::vector<std::string>{"step_1"});

  std::ofstream(dir / "file") << "x";
  const std::string blocked = message_of([&] { run.save(dir / "file", 2); });
  EXPECT_NE(blocked.find("Not a directory"), std::string::npos) << blocked;
  const std::string unread = message_of([&] { latest_checkpoint(dir / "file"); });
  EXPECT_NE(unread.find("file: checkpoints cannot be listed: Not a directory"), std::string::npos) << unread;
}

TEST(Checkpoint, KilledSaveLeavesAWholeOne) {
  Trained run(1);
  RandomStream random(5, 6);
  for (int round = 0; round < 8; ++round) {
    TempDir dir;
    run.save(dir.path(), 1);
    const pid_t child = ::fork();
    if (child == 0) {
      for (int64_t step = 2; step < 10000; ++step) run.save(dir.path(), step, {.last = 2});
      ::_exit(0);
    }
    ::usleep(1000 + random.below(40000));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    clean_checkpoints(dir.path());
    const auto latest = latest_checkpoint(dir.path());
    ASSERT_TRUE(latest);
    Trained other(2);
    const CheckpointState state = load_checkpoint(*latest, other.exec, other.params, *other.optimizer);
    EXPECT_EQ(state.counters.at("cursor"), 7 * state.step);
    expect_same(run, other);
    for (const std::string& name : names_in(dir.path())) EXPECT_NO_THROW(read_checkpoint_state(dir / name)) << name;
  }
}

}  // namespace
}  // namespace mantissa
