#include "worker/agent/engine_process.h"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "boost/asio/io_context.hpp"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"
#include "proto/spec/uri.h"

namespace teq::agent {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr char kKilled[] =
    "was killed by signal 9 (Killed), most often for lack of memory where nobody sent it";

class EngineProcessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = fs::temp_directory_path() / "teq-engine-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    start_.set_job_uid("uid");
    start_.set_attempt(1);
    start_.set_fence(1);
    start_.mutable_spec()->mutable_output()->set_uri(FileUri(directory_ / "out"));
  }
  void TearDown() override {
    engine_.reset();
    fs::remove_all(directory_);
  }

  // Runs the fake engine to its end.
  void Run(const std::vector<std::string>& arguments) {
    std::vector<std::string> command = {TEQ_FAKE_ENGINE};
    command.insert(command.end(), arguments.begin(), arguments.end());
    RunCommand(command);
  }

  void RunShell(const std::string& script) { RunCommand({"/bin/sh", "-c", script}); }

  void RunCommand(const std::vector<std::string>& command) {
    engine_ = EngineProcess::Start(io_, command, start_,
                                   {.on_event =
                                        [this](const v1::EngineEvent& event) {
                                          EXPECT_FALSE(how_) << "an event after the exit";
                                          events_.push_back(event);
                                          if (on_event_) on_event_(event);
                                        },
                                    .on_exit =
                                        [this](const std::string& how) {
                                          how_ = how;
                                          io_.stop();
                                        },
                                    .on_line =
                                        [this](const std::string& line) {
                                          EXPECT_FALSE(how_) << "a line after the exit";
                                          lines_.push_back(line);
                                        }})
                  .value();
    io_.run();
  }

  fs::path directory_;
  v1::StartRun start_;
  boost::asio::io_context io_{1};
  std::unique_ptr<EngineProcess> engine_;
  std::function<void(const v1::EngineEvent&)> on_event_;
  std::vector<v1::EngineEvent> events_;
  std::vector<std::string> lines_;
  std::optional<std::string> how_;
};

TEST_F(EngineProcessTest, EventsArriveInOrderBeforeTheExit) {
  Run({"finish"});
  ASSERT_EQ(events_.size(), 4);
  EXPECT_TRUE(events_[0].has_progress());
  EXPECT_TRUE(events_[1].has_sample());
  EXPECT_TRUE(events_[2].has_perplexity());
  EXPECT_TRUE(events_[3].has_finished());
  EXPECT_EQ(how_, "exited with code 0");
}

TEST_F(EngineProcessTest, LinesArriveBeforeTheExitTheLastOneToo) {
  Run({"grumble"});
  EXPECT_THAT(lines_,
              ::testing::ElementsAre("to standard output", "to standard error", "last words"));
}

// A helper that has left the process's group outlives it and keeps the pipe open; nobody waits for
// it. The shell ends when the helper writes elsewhere than into the substitution, and so has left.
TEST_F(EngineProcessTest, ExitIsToldWhileAnotherProcessHoldsTheOutput) {
  RunShell(
      "helper=$(setsid sh -c 'echo $$; exec sleep 600 >&2 3>&-' &); "
      "echo started $helper");
  EXPECT_EQ(how_, "exited with code 0");
  ASSERT_EQ(lines_.size(), 1U);
  int helper = 0;
  ASSERT_EQ(std::sscanf(lines_[0].c_str(), "started %d", &helper), 1);
  EXPECT_EQ(::kill(helper, SIGKILL), 0);
}

// As in a container, where the agent is process 1 and orphans become its children.
TEST_F(EngineProcessTest, HelperThatAKilledProcessLeavesEndsWithItAndIsNoZombie) {
  ASSERT_EQ(::prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  RunShell("sleep 600 3>&- & kill -9 $$");
  EXPECT_EQ(how_, kKilled);
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);  // no children
  ::prctl(PR_SET_CHILD_SUBREAPER, 0);
}

TEST_F(EngineProcessTest, BusErrorTellsOfAFileThatBecameShorter) {
  RunShell("kill -BUS $$");
  EXPECT_THAT(how_.value_or(""),
              HasSubstr("was killed by signal 7 (Bus error): a file that it read became"));
}

TEST_F(EngineProcessTest, CancelReachesTheRun) {
  on_event_ = [this](const v1::EngineEvent& event) {
    if (event.has_sample()) engine_->Cancel();
  };
  Run({"wait"});
  ASSERT_TRUE(events_.back().has_failed());
  EXPECT_EQ(events_.back().failed().status().code(), 1);  // CANCELLED
}

TEST_F(EngineProcessTest, KillEndsADeafEngine) {
  on_event_ = [this](const v1::EngineEvent& event) {
    if (event.has_sample()) engine_->Kill();
  };
  Run({"deaf"});
  EXPECT_EQ(how_, kKilled);
}

TEST_F(EngineProcessTest, DeathTellsTheExitCode) {
  Run({"exit"});
  EXPECT_TRUE(events_.empty());
  EXPECT_EQ(how_, "exited with code 7");
}

TEST_F(EngineProcessTest, BytesThatAreNoMessageEndTheEngine) {
  Run({"garbage"});
  EXPECT_TRUE(events_.empty());
  EXPECT_THAT(*how_, HasSubstr("sent a message that cannot be read"));
}

TEST_F(EngineProcessTest, ProgramThatIsNotThereIsNamed) {
  const absl::Status status = EngineProcess::Start(io_, {"/no/such/program"}, start_, {}).status();
  EXPECT_EQ(ErrorReason(status), "ENGINE_NOT_STARTED");
  EXPECT_THAT(std::string(status.message()), HasSubstr("/no/such/program"));
}

// The shell lists its own descriptors.
TEST_F(EngineProcessTest, ChildInheritsNoOtherDescriptor) {
  const std::string list = directory_ / "list";
  const int leak = ::dup(STDERR_FILENO);  // without close-on-exec
  RunShell("exec > " + list + "; ls /proc/$$/fd");
  ::close(leak);
  std::ifstream file(list);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  EXPECT_EQ(text, "0\n1\n2\n3\n");
}

TEST_F(EngineProcessTest, DestructionKillsTheProcessAndLeavesNoZombie) {
  on_event_ = [this](const v1::EngineEvent& event) {
    if (event.has_sample()) io_.stop();
  };
  Run({"deaf"});
  engine_.reset();
  EXPECT_FALSE(how_);
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);  // no children
}

}  // namespace
}  // namespace teq::agent
