// The programs of the one executable (tools/main.cpp picks by name). Each is a main(): argv[0] is the program's name;
// it returns the exit code, and throws on bad input (main prints "error: ..." and exits with 1).
#pragma once

namespace mantissa {

int trainer_main(int argc, char** argv);
int generate_main(int argc, char** argv);
int score_main(int argc, char** argv);
int tokenize_main(int argc, char** argv);
int grade_main(int argc, char** argv);
int evaluate_main(int argc, char** argv);
int mismatch_main(int argc, char** argv);
int export_main(int argc, char** argv);
int bench_main(int argc, char** argv);

}  // namespace mantissa
