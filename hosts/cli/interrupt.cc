// SPDX-License-Identifier: Apache-2.0
#include "interrupt.h"

#include <csignal>
#include <initializer_list>

namespace polarquant::cli {
namespace {

volatile std::sig_atomic_t pending_signal = 0;

extern "C" void Note(int signal) { pending_signal = signal; }

}  // namespace

void CatchInterrupts() {
  struct sigaction action = {};
  action.sa_handler = Note;
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // the next one kills
  for (const int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
}

int PendingSignal() { return pending_signal; }

void ThrowIfInterrupted() {
  if (pending_signal != 0) throw Interrupted();
}

}  // namespace polarquant::cli
