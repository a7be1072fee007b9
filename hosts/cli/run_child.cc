// SPDX-License-Identifier: Apache-2.0
#include "run_child.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "polarquant/error.h"

namespace polarquant::cli {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kGrace = std::chrono::seconds(5);
constexpr long kPollNanoseconds = 50'000'000;
constexpr int kCannotStart = 127;

// Signals a person or a supervisor sends to end or tell a program something.
sigset_t WatchedSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGCHLD}) {
    sigaddset(&set, signal);
  }
  return set;
}

class BlockedSignals {
 public:
  explicit BlockedSignals(const sigset_t& set) { sigprocmask(SIG_BLOCK, &set, &before_); }
  ~BlockedSignals() { sigprocmask(SIG_SETMASK, &before_, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;
  const sigset_t& before() const { return before_; }

 private:
  sigset_t before_;
};

// The parent of a process, 0 if it is gone: the fourth field of its stat, counted from the end of
// the name, which may itself hold blanks and brackets.
pid_t ParentOf(pid_t process) {
  std::ifstream file(fmt::format("/proc/{}/stat", process));
  std::string text;
  std::getline(file, text);
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos || name_end + 4 > text.size()) return 0;
  return static_cast<pid_t>(std::atoi(text.c_str() + name_end + 4));
}

// Sends a signal to every process that descends from this one: a program may be a script, or
// start others of its kind.
void SignalDescendants(int signal) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const pid_t process = static_cast<pid_t>(std::atoi(entry.path().filename().c_str()));
    if (process <= 0) continue;
    for (pid_t parent = ParentOf(process); parent > 1; parent = ParentOf(parent)) {
      if (parent == getpid()) {
        kill(process, signal);
        break;
      }
    }
  }
}

[[noreturn]] void Become(const std::vector<std::string>& argv, const Variables& variables,
                         const sigset_t& signals, int error_pipe) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);  // never outlive the watcher
  sigprocmask(SIG_SETMASK, &signals, nullptr);
  for (const auto& [name, value] : variables) {
    if (value) {
      setenv(name.c_str(), value->c_str(), 1);
    } else {
      unsetenv(name.c_str());
    }
  }
  std::vector<char*> words;
  words.reserve(argv.size() + 1);
  for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  execv(words[0], words.data());
  const int cause = errno;
  const ssize_t written = write(error_pipe, &cause, sizeof(cause));
  _exit(written == sizeof(cause) ? kCannotStart : kCannotStart + 1);
}

}  // namespace

void StatusLog::Poll() {
  std::ifstream file(path_, std::ios::binary);
  file.seekg(position_);
  for (std::string line; std::getline(file, line);) {
    if (file.eof()) return;  // no newline yet
    position_ += static_cast<std::streamoff>(line.size()) + 1;
    Take(line);
  }
}

void StatusLog::Take(const std::string& line) {
  if (line.empty()) return;
  const Json event = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!event.is_object()) {
    if (trouble_.empty()) trouble_ = "the plug-in's report cannot be read: " + line;
    return;
  }
  const std::string name = event.value("event", "");
  if (name == "loaded") loaded_ = true;
  if (name == "cache") made_cache_ = true;
  if (name == "attention") attended_ = true;
  if (name == "exit") last_status_ = event;
  if ((name == "refused" || name == "bypass") && trouble_.empty()) {
    trouble_ = fmt::format("{}: {}", name == "refused" ? "the plug-in refused" : "bypassed",
                           event.value("cause", "no cause given"));
  }
}

std::string JudgeEnd(const StatusLog& log, const ChildEnd& end, const std::string& program) {
  if (!log.trouble().empty()) return log.trouble();
  if (!log.loaded()) {
    if (end.by_signal) return "";
    return fmt::format(
        "{} ended (status {}) without loading the plug-in; if it complained above, mend that "
        "first, "
        "else it is no llama.cpp program, is linked statically, or is another version than the one "
        "polarquant was built for (see polarquant --version)",
        program, end.status);
  }
  if (end.by_signal || end.status != 0) return "";  // its own failure, it has said why
  if (!log.made_cache()) {
    return fmt::format("{} loaded the plug-in but kept no cache with it", program);
  }
  if (!log.attended()) {
    return fmt::format("{} made a cache with the plug-in but computed no attention on it", program);
  }
  return "";
}

ChildEnd RunChild(const std::vector<std::string>& argv, const Variables& variables,
                  StatusLog& log) {
  const sigset_t watched = WatchedSignals();
  const BlockedSignals blocked(watched);
  prctl(PR_SET_CHILD_SUBREAPER, 1);  // orphans of the program stay our descendants
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw Error(ErrorCode::kHost, "the system gives no pipe");
  const pid_t child = fork();
  if (child < 0) throw Error(ErrorCode::kHost, "the system starts no process");
  if (child == 0) Become(argv, variables, blocked.before(), ends[1]);
  close(ends[1]);
  int cause = 0;
  const bool failed = read(ends[0], &cause, sizeof(cause)) == sizeof(cause);
  close(ends[0]);

  ChildEnd end;
  std::optional<Clock::time_point> kill_at;
  bool told_to_end = false;
  for (;;) {
    int status = 0;
    if (waitpid(child, &status, WNOHANG) == child) {
      end.by_signal = WIFSIGNALED(status) || told_to_end;
      end.status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
      break;
    }
    siginfo_t info = {};
    const timespec pause = {0, kPollNanoseconds};
    const int signal = sigtimedwait(&watched, &info, &pause);
    if (signal > 0 && signal != SIGCHLD) {
      told_to_end |= signal != SIGUSR1 && signal != SIGUSR2;
      // What comes from the terminal reaches the child by itself; twice would kill it at once.
      if (info.si_code <= 0) kill(child, signal);
    }
    log.Poll();
    if (!log.trouble().empty() && !kill_at) {
      SignalDescendants(SIGTERM);
      kill_at = Clock::now() + kGrace;
    }
    if (kill_at && Clock::now() > *kill_at) SignalDescendants(SIGKILL);
  }
  log.Poll();
  if (!log.trouble().empty()) SignalDescendants(SIGKILL);
  if (failed) {
    throw Error(ErrorCode::kHost,
                fmt::format("cannot start {}: {}", argv.front(), std::strerror(cause)));
  }
  return end;
}

}  // namespace polarquant::cli
