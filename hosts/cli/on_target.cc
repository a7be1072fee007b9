// SPDX-License-Identifier: Apache-2.0
#include "on_target.h"

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>

#include "interrupt.h"
#include "polarquant/attention.h"
#include "polarquant/error.h"

namespace polarquant::cli {
namespace {

// The first letter of what a child sends.
constexpr char kAnswer = 'A', kLacks = 'L', kFailed = 'E', kInterrupted = 'I';

std::string Answer(const char* target, const std::function<std::string()>& work) {
  try {
    if (target != nullptr) setenv("POLARQUANT_ISA", target, /*overwrite=*/1);
    try {
      (void)DefaultTarget();
    } catch (const Error&) {
      if (target == nullptr) throw;
      return {kLacks};
    }
    return kAnswer + work();
  } catch (const Error& error) {
    return fmt::format("{}{}:{}", kFailed, static_cast<int>(error.code()), error.what());
  } catch (const Interrupted&) {
    return {kInterrupted};
  } catch (const std::exception& error) {
    return fmt::format("{}{}:{}", kFailed, static_cast<int>(ErrorCode::kHost), error.what());
  }
}

bool Send(int pipe, const std::string& text) {
  for (size_t sent = 0; sent < text.size();) {
    const ssize_t count = write(pipe, text.data() + sent, text.size() - sent);
    if (count < 0 && errno != EINTR) return false;
    if (count > 0) sent += static_cast<size_t>(count);
  }
  return true;
}

std::string Receive(int pipe) {
  std::string text;
  std::array<char, 4096> piece;
  for (;;) {
    const ssize_t count = read(pipe, piece.data(), piece.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return text;
    text.append(piece.data(), static_cast<size_t>(count));
  }
}

}  // namespace

std::optional<std::string> OnTarget(const char* target, const std::function<std::string()>& work) {
  std::array<int, 2> ends = {};
  if (pipe(ends.data()) != 0) throw Error(ErrorCode::kHost, "the system gives no pipe");
  const pid_t child = fork();
  if (child < 0) throw Error(ErrorCode::kHost, "the system starts no process");
  if (child == 0) {
    close(ends[0]);
    _exit(Send(ends[1], Answer(target, work)) ? 0 : 1);
  }
  close(ends[1]);
  const std::string text = Receive(ends[0]);
  close(ends[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  ThrowIfInterrupted();
  const char* name = target != nullptr ? target : "the active target";
  if (WIFSIGNALED(status)) {
    throw Error(ErrorCode::kHost,
                fmt::format("the kernels of {} died of signal {}; force others with POLARQUANT_ISA "
                            "and report this CPU",
                            name, WTERMSIG(status)));
  }
  if (text.empty() || text[0] == kInterrupted) {
    throw Error(ErrorCode::kHost, fmt::format("a process on {} ended without an answer", name));
  }
  if (text[0] == kLacks) return std::nullopt;
  if (text[0] == kFailed) {
    throw Error(static_cast<ErrorCode>(std::atoi(text.c_str() + 1)),
                text.substr(text.find(':') + 1));
  }
  return text.substr(1);
}

}  // namespace polarquant::cli
