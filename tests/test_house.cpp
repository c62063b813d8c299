// The rules of the house: who may include whom, where heavy and vendor headers may appear, how long and how wide files
// may be, and documentation that names only what exists.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;

const fs::path kRoot = MANTISSA_SOURCE_DIR;
const Strings kFolders = {"core", "autograd", "nn", "rl", "cuda", "tools", "tests", "configs", "docs"};

std::string text_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

size_t lines_of(const std::string& text) {
  return size_t(std::count(text.begin(), text.end(), '\n'));
}

bool starts_with_one_of(const std::string& text, const Strings& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](const std::string& p) { return text.starts_with(p); });
}

/// Files of the tree with one of these endings, relative to the root; golden data left out.
Strings files_of(const Strings& folders, const std::set<std::string>& endings) {
  Strings files;
  for (const std::string& folder : folders) {
    if (!fs::is_directory(kRoot / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder)) {
      const std::string name = fs::relative(entry.path(), kRoot).generic_string();
      if (entry.is_regular_file() && endings.contains(entry.path().extension().string()) &&
          !name.starts_with("tests/golden/"))
        files.push_back(name);
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

Strings sources() {
  return files_of(kFolders, {".h", ".cpp", ".cu", ".cuh"});
}
std::string folder_of(const std::string& file) {
  return file.substr(0, file.find('/'));
}
bool is_header(const std::string& file) {
  return file.ends_with(".h") || file.ends_with(".cuh");
}

/// What a file includes, with its marks: <vector>, "core/error.h".
Strings includes_of(const std::string& file) {
  static const std::regex kInclude(R"re((?:^|\n)[ \t]*#[ \t]*include[ \t]*([<"][^>"]+[>"]))re");
  const std::string text = text_of(kRoot / file);
  Strings found;
  for (std::sregex_iterator it(text.begin(), text.end(), kInclude), end; it != end; ++it) found.push_back((*it)[1]);
  return found;
}

Strings matches(const std::string& text, const std::regex& pattern) {
  Strings found;
  for (std::sregex_iterator it(text.begin(), text.end(), pattern), end; it != end; ++it) found.push_back((*it)[1]);
  return found;
}

TEST(House, FoldersIncludeOnlyWhatIsToTheirLeft) {
  const std::map<std::string, Strings> may_see = {
      {"core", {"core/"}},
      {"autograd", {"core/", "autograd/"}},
      {"nn", {"core/", "autograd/", "nn/"}},
      {"rl", {"core/", "autograd/", "nn/", "rl/"}},
      {"cuda", {"core/", "cuda/"}},
      {"tools", {"core/", "autograd/", "nn/", "rl/", "tools/", "cuda/backend.h"}},
      {"tests", {"core/", "autograd/", "nn/", "rl/", "tests/", "cuda/backend.h"}},
  };
  const Strings files = sources();
  ASSERT_GT(files.size(), 50u);
  for (const std::string& file : files)
    for (const std::string& include : includes_of(file)) {
      const std::string target = include.substr(1, include.size() - 2);
      const bool quoted = include[0] == '"';
      if (!may_see.contains(folder_of(target))) {
        // Vectorised code needs its library's headers in a given order, among ours.
        EXPECT_TRUE(!quoted || target.starts_with("hwy/"))
            << file << " includes " << include << ": own headers are named from the root of the tree";
        continue;
      }
      EXPECT_TRUE(quoted) << file << " includes " << include << ": own headers stand in quotes";
      EXPECT_TRUE(starts_with_one_of(target, may_see.at(folder_of(file)))) << file << " must not include " << target;
      EXPECT_TRUE(fs::exists(kRoot / target)) << file << " includes " << target << ", which does not exist";
    }
}

// Two classes of one name and namespace: no linker reports it, and the destructor of one runs for the other.
TEST(House, ClassesOfTestHeadersHaveNamesOfTheirOwn) {
  static const std::regex kClass(R"re((?:^|\n)(?:class|struct) (\w+)[^;\n]*\{)re");
  std::map<std::string, std::string> owner;
  size_t ours = 0;
  for (const bool tests : {false, true})
    for (const std::string& file : sources()) {
      if (!is_header(file) || (folder_of(file) == "tests") != tests) continue;
      const std::string text = text_of(kRoot / file);
      if (text.find("\nnamespace mantissa {") == text.npos) continue;  // classes of another namespace
      for (const std::string& name : matches(text, kClass)) {
        const auto [known, added] = owner.emplace(name, file);
        if (!tests) continue;
        EXPECT_TRUE(added) << name << " of " << file << " is a class of " << known->second << " too";
        ++ours;
      }
    }
  EXPECT_GT(ours, 5u);
}

std::string directory_of(const std::string& file) {
  return file.substr(0, file.rfind('/'));
}

TEST(House, WingsIncludeOnlyWingsAboveThem) {
  // rl/types.h is under all wings; rl's own files (the story) see all of them. nn/formats reads models into nn/.
  const Strings wings = {"rl/text",   "rl/data",      "rl/rollout", "rl/reward/math",
                         "rl/reward", "rl/algorithm", "rl/train",   "rl/logging"};
  const auto rank = [&](const std::string& wing) {  // rl/text/jinja is a part of rl/text
    return std::find(wings.begin(), wings.end(), wing == "rl/text/jinja" ? "rl/text" : wing) - wings.begin();
  };
  for (const std::string& file : sources()) {
    const std::string wing = directory_of(file);
    if (!file.starts_with("rl/") || wing == "rl") continue;
    ASSERT_LT(rank(wing), std::ssize(wings)) << file << " lies in no known wing of rl/";
    for (const std::string& include : includes_of(file)) {
      const std::string target = include.substr(1, include.size() - 2);
      if (!target.starts_with("rl/") || target == "rl/types.h") continue;
      EXPECT_LE(rank(directory_of(target)), rank(wing)) << file << " must not include " << target << ": it lies below";
    }
  }
}

TEST(House, ForeignHeadersStayWhereTheyBelong) {
  struct Rule {
    Strings headers, places;  // beginnings of both
  };
  const std::vector<Rule> rules = {
      {{"cuda", "cublas", "cudnn", "nccl", "nvtx", "cooperative_groups", "mma.h"}, {"cuda/"}},
      {{"yaml-cpp/"}, {"rl/config_yaml.cpp"}},
      {{"spdlog/"}, {"rl/logging/log.cpp"}},
      {{"CLI/"}, {"tools/arguments.cpp"}},
      {{"oniguruma"}, {"rl/text/regex.cpp"}},
      {{"utf8proc"}, {"rl/text/unicode.cpp", "rl/text/jinja/python_text.cpp"}},
      {{"gmp"}, {"rl/reward/math/"}},
      {{"hwy/"}, {"core/cpu/"}},
      {{"omp.h"}, {"core/cpu/", "core/parallel.h"}},
  };
  for (const std::string& file : sources()) {
    if (folder_of(file) == "tests") continue;
    for (const std::string& include : includes_of(file)) {
      const std::string target = include.substr(1, include.size() - 2);
      if (fs::exists(kRoot / target)) continue;
      for (const Rule& rule : rules)
        EXPECT_TRUE(!starts_with_one_of(target, rule.headers) || starts_with_one_of(file, rule.places))
            << file << " must not include " << include << ": only " << testing::PrintToString(rule.places) << " may";
      EXPECT_TRUE(!target.starts_with("nlohmann/") || !is_header(file))
          << file << " is a header: no JSON library in it";
    }
  }
}

/// A source and its header are one room: the file's name without its ending.
std::string room_of(const std::string& file) {
  return file.substr(0, file.rfind('.'));
}

/// Rooms that include each other, directly or on the way through others: the strongly connected components of more than
/// one room (Tarjan).
std::vector<std::set<std::string>> circles(const std::map<std::string, std::set<std::string>>& includes) {
  std::map<std::string, size_t> index, lowest;
  Strings stack;
  std::vector<std::set<std::string>> found;
  const std::function<void(const std::string&)> visit = [&](const std::string& room) {
    index[room] = lowest[room] = index.size();
    stack.push_back(room);
    for (const std::string& next : includes.at(room)) {
      if (!index.contains(next)) visit(next);
      if (std::find(stack.begin(), stack.end(), next) != stack.end())
        lowest[room] = std::min(lowest[room], lowest[next]);
    }
    if (lowest[room] != index[room]) return;
    const auto first = std::find(stack.begin(), stack.end(), room);
    if (stack.end() - first > 1) found.emplace_back(first, stack.end());
    stack.erase(first, stack.end());
  };
  for (const auto& [room, ignored] : includes)
    if (!index.contains(room)) visit(room);
  return found;
}

TEST(House, NoCircleBetweenRooms) {
  // A tensor holds memory of its backend, and a backend's functions take tensors. Nothing else may go round.
  const std::vector<std::set<std::string>> allowed = {
      {"core/backend", "core/tensor"},
  };
  std::map<std::string, std::set<std::string>> includes;
  for (const std::string& file : sources()) {
    std::set<std::string>& targets = includes[room_of(file)];
    for (const std::string& include : includes_of(file)) {
      const std::string target = include.substr(1, include.size() - 2);
      if (!fs::exists(kRoot / target) || room_of(target) == room_of(file)) continue;
      targets.insert(room_of(target));
      includes[room_of(target)];
    }
  }
  for (const std::set<std::string>& circle : circles(includes))
    EXPECT_TRUE(std::any_of(allowed.begin(), allowed.end(),
                            [&](const std::set<std::string>& rooms) {
                              return std::includes(rooms.begin(), rooms.end(), circle.begin(), circle.end());
                            }))
        << testing::PrintToString(circle) << " include each other";
}

TEST(House, CirclesAreFound) {
  using Rooms = std::set<std::string>;
  EXPECT_TRUE(circles({{"a", {"b", "c"}}, {"b", {"c"}}, {"c", {}}}).empty());
  EXPECT_EQ(circles({{"a", {"b"}}, {"b", {"c", "d"}}, {"c", {"b"}}, {"d", {}}}), (std::vector<Rooms>{{"b", "c"}}));
  EXPECT_EQ(circles({{"a", {"b"}}, {"b", {"c"}}, {"c", {"a", "d"}}, {"d", {"e"}}, {"e", {"d"}}}),
            (std::vector<Rooms>{{"d", "e"}, {"a", "b", "c"}}));
}

TEST(House, FilesStayShort) {
  constexpr size_t kLongest = 450;
  Strings files = files_of(kFolders, {".h", ".cpp", ".cu", ".cuh", ".py", ".sh"});
  files.push_back("CMakeLists.txt");
  for (const std::string& file : files) EXPECT_LE(lines_of(text_of(kRoot / file)), kLongest) << file;
}

TEST(House, CommentsAreNotWide) {
  constexpr size_t kWidest = 120;  // clang-format holds the code to it and leaves comments alone
  for (const std::string& file : sources()) {
    std::istringstream lines(text_of(kRoot / file));
    size_t number = 0;
    for (std::string line; std::getline(lines, line);) {
      ++number;
      const auto width =
          std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xC0) != 0x80; });  // of UTF-8
      const size_t comment = line.find("//");
      EXPECT_TRUE(size_t(width) <= kWidest || comment == std::string::npos || line.find('"') < comment)
          << file << ":" << number << ": a comment of " << width << " columns";
    }
  }
}

TEST(House, HeadersOpenWithWhatTheyAre) {
  for (const std::string& file : sources())
    EXPECT_TRUE(!is_header(file) || text_of(kRoot / file).starts_with("// "))
        << file << " does not open with a comment";
}

TEST(House, OnlyCoreSplitsWorkOverOpenMp) {
  for (const std::string& file : sources()) {
    if (file.starts_with("core/cpu/") || file == "core/parallel.h" || file.starts_with("tests/")) continue;
    EXPECT_EQ(text_of(kRoot / file).find("#pragma omp"), std::string::npos) << file;
  }
}

Strings documents() {
  Strings files = files_of({"docs"}, {".md"});
  for (const char* name : {"README.md", "CONTRIBUTING.md", "tests/README.md"}) files.push_back(name);
  return files;
}

TEST(House, DocumentsNameOnlyWhatExists) {
  const std::regex path(R"re(`((?:core|autograd|nn|rl|cuda|tools|configs|builtin|tests|docs)/[\w./-]*)`)re");
  const std::regex link(R"re(\]\(([^)#:]+)\))re");
  for (const std::string& document : documents()) {
    const std::string text = text_of(kRoot / document);
    for (const std::string& name : matches(text, path))
      EXPECT_TRUE(fs::exists(kRoot / name)) << document << " names " << name << ", which does not exist";
    for (const std::string& name : matches(text, link))
      EXPECT_TRUE(fs::exists((kRoot / document).parent_path() / name))
          << document << " links to " << name << ", which does not exist";
  }
}

TEST(House, DocumentsNameOnlyTestsThatExist) {
  const std::regex definition(R"re(\bTEST(?:_P|_F)?\((\w+, *\w+)\))re"), mention(R"re(`([A-Z]\w+\.[A-Z]\w+)`)re");
  std::set<std::string> known;
  for (const std::string& file : files_of({"tests"}, {".cpp"}))
    for (std::string name : matches(text_of(kRoot / file), definition)) {
      name.replace(name.find(','), name.rfind(' ') + 1 - name.find(','), ".");
      known.insert(name);
    }
  for (const std::string& name : matches(text_of(kRoot / "CMakeLists.txt"), std::regex(R"re(add_test\(NAME (\S+))re")))
    known.insert(name);
  ASSERT_TRUE(known.contains("House.DocumentsNameOnlyTestsThatExist"));
  size_t mentions = 0;
  for (const std::string& document : documents())
    for (const std::string& name : matches(text_of(kRoot / document), mention)) {
      EXPECT_TRUE(known.contains(name)) << document << " points at the test " << name << ", which does not exist";
      ++mentions;
    }
  EXPECT_GT(mentions, 0u);
}

TEST(House, EveryConfigAndProgramIsDocumented) {
  const std::string readme = text_of(kRoot / "README.md");
  const auto mentioned = [&](const std::string& name) { return readme.find(name) != std::string::npos; };
  const std::string paper = text_of(kRoot / "docs/paper.md");
  for (const std::string& config : files_of({"configs"}, {".yaml"}))
    EXPECT_TRUE(mentioned('`' + config + '`') || paper.find('`' + config + '`') != std::string::npos)
        << "neither README.md nor docs/paper.md mentions " << config;
  for (const std::string& script : files_of({"tools"}, {".sh", ".py"}))
    EXPECT_TRUE(mentioned(script)) << "README.md does not mention " << script;
  for (const std::string& file : sources())
    EXPECT_TRUE(mentioned('`' + folder_of(file) + "/`")) << "README.md does not mention the folder of " << file;

  const Strings lists =
      matches(text_of(kRoot / "CMakeLists.txt"), std::regex(R"re(set\(MANTISSA_PROGRAMS ([^)]+)\))re"));
  ASSERT_EQ(lists.size(), 1u);
  const Strings programs = matches(lists[0], std::regex(R"re((\w+))re"));
  ASSERT_GE(programs.size(), 8u);
  for (const std::string& program : programs)
    EXPECT_TRUE(mentioned("`" + program)) << "README.md does not mention the program " << program;
}

TEST(House, NoFileKnowsAMachine) {
  // Written in pieces: this file is looked at as well.
  const Strings places = {std::string("/") + "work/", std::string("/") + "home/", std::string("/") + "root/",
                          std::string("/") + "tmp/"};
  Strings files = files_of(kFolders, {".h", ".cpp", ".cu", ".cuh", ".py", ".sh", ".md", ".yaml", ".json"});
  for (const char* name : {"README.md", "CONTRIBUTING.md", "CMakeLists.txt", "CMakePresets.json", ".ci/run"})
    files.push_back(name);
  for (const std::string& file : files) {
    const std::string text = text_of(kRoot / file);
    EXPECT_FALSE(text.empty()) << file;
    for (const std::string& place : places)
      EXPECT_EQ(text.find(place), std::string::npos) << file << " names " << place;
  }
}

}  // namespace
