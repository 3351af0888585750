#include "gmock/gmock.h"
#include "proto/spec/error.h"
#include "tests/unit/server/harness.h"

namespace teq::queue {
namespace {

using teq::testing::NewJob;
using teq::v1::ListJobsRequest;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ListJobsTest : public teq::testing::QueueTest {
 protected:
  void Add(const std::string& id, const std::string& project, int priority,
           const std::string& team) {
    auto request = NewJob(id, project);
    request.set_job_id(id);
    request.mutable_job()->set_priority(priority);
    if (!team.empty()) (*request.mutable_job()->mutable_labels())["team"] = team;
    Create(request);
    clock_.Advance(absl::Seconds(10));
  }

  void AddFour() {
    Add("a", "p", 1, "search");
    Add("b", "p", 5, "ads");
    Add("c", "q", 9, "search");
    Add("d", "p", 5, "");
  }

  std::vector<std::string> Ids(const std::string& parent, const std::string& filter) {
    ListJobsRequest request;
    request.set_parent(parent);
    request.set_filter(filter);
    auto response = queue_->ListJobs(request);
    EXPECT_TRUE(response.ok()) << response.status();
    std::vector<std::string> ids;
    for (const auto& job : response->jobs())
      ids.push_back(job.name().substr(job.name().size() - 1));
    return ids;
  }
};

TEST_F(ListJobsTest, NewestFirstOfOneProjectOrAll) {
  AddFour();
  EXPECT_THAT(Ids("projects/p", ""), ElementsAre("d", "b", "a"));
  EXPECT_THAT(Ids("projects/-", ""), ElementsAre("d", "c", "b", "a"));
  EXPECT_THAT(Ids("projects/none", ""), ElementsAre());
}

TEST_F(ListJobsTest, FiltersByStateLabelPriorityAndTime) {
  AddFour();
  ASSERT_TRUE(Cancel("projects/p/jobs/b").ok());
  EXPECT_THAT(Ids("projects/-", "state = CANCELLED"), ElementsAre("b"));
  EXPECT_THAT(Ids("projects/-", "state != CANCELLED AND priority >= 5"), ElementsAre("d", "c"));
  EXPECT_THAT(Ids("projects/-", "labels.team = \"search\""), ElementsAre("c", "a"));
  EXPECT_THAT(Ids("projects/-", "labels.team != search"), ElementsAre("d", "b"));
  // The clock starts at 1 800 000 000, which is 2027-01-15T08:00:00Z; jobs come every 10 s.
  EXPECT_THAT(Ids("projects/-", "create_time > \"2027-01-15T08:00:10Z\""), ElementsAre("d", "c"));
  EXPECT_THAT(Ids("projects/-", "create_time <= \"2027-01-15T08:00:10Z\""), ElementsAre("b", "a"));
}

TEST_F(ListJobsTest, FiltersByChangedLabels) {
  AddFour();
  teq::v1::UpdateJobRequest update;
  update.mutable_job()->set_name("projects/p/jobs/d");
  (*update.mutable_job()->mutable_labels())["team"] = "search";
  update.mutable_update_mask()->add_paths("labels");
  ASSERT_TRUE(queue_->UpdateJob(update).ok());
  EXPECT_THAT(Ids("projects/p", "labels.team = search"), ElementsAre("d", "a"));
}

TEST_F(ListJobsTest, PagesHoldEveryJobOnceWhileNewOnesCome) {
  AddFour();
  ListJobsRequest request;
  request.set_parent("projects/-");
  request.set_page_size(3);
  const auto first = queue_->ListJobs(request);
  ASSERT_EQ(first->jobs_size(), 3);
  Add("e", "p", 1, "");
  request.set_page_token(first->next_page_token());
  const auto second = queue_->ListJobs(request);
  ASSERT_EQ(second->jobs_size(), 1);
  EXPECT_EQ(second->jobs(0).name(), "projects/p/jobs/a");
  EXPECT_EQ(second->next_page_token(), "");
}

TEST_F(ListJobsTest, TokenOfAnotherListIsRefused) {
  AddFour();
  ListJobsRequest request;
  request.set_parent("projects/-");
  request.set_page_size(1);
  request.set_page_token(queue_->ListJobs(request)->next_page_token());
  request.set_filter("state = RUNNING");
  EXPECT_EQ(ErrorReason(queue_->ListJobs(request).status()), "INVALID_PAGE_TOKEN");
  request.clear_filter();
  request.set_parent("projects/p");
  EXPECT_EQ(ErrorReason(queue_->ListJobs(request).status()), "INVALID_PAGE_TOKEN");
  request.set_page_token("rubbish");
  const absl::Status status = queue_->ListJobs(request).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(ErrorReason(status), "INVALID_PAGE_TOKEN");
}

TEST_F(ListJobsTest, PageSizeIsCoercedAndNeverNegative) {
  AddFour();
  ListJobsRequest request;
  request.set_parent("projects/-");
  request.set_page_size(1'000'000);
  EXPECT_EQ(queue_->ListJobs(request)->jobs_size(), 4);
  request.set_page_size(-1);
  const absl::Status status = queue_->ListJobs(request).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("-1 is negative"));
}

TEST_F(ListJobsTest, BadFilterIsRefused) {
  ListJobsRequest request;
  request.set_parent("projects/-");
  request.set_filter("state ~ x");
  EXPECT_EQ(ErrorReason(queue_->ListJobs(request).status()), "INVALID_FILTER");
}

TEST_F(ListJobsTest, ListsAreWithoutTheLongPartsOfReports) {
  const auto job = Create(NewJob("a"));
  const auto lease = Acquire(Register("w"));
  auto completion = Completion(lease);
  completion.mutable_success()->set_manifest_sha256(teq::testing::Sha('a'));
  auto& report = *completion.mutable_success()->mutable_report();
  report.add_layers()->set_name("model.layers.0.mlp.up_proj");
  report.mutable_training()->set_steps(200);
  report.mutable_training()->add_loss_curve()->set_step(1);
  report.add_perplexity()->set_quantized(12.5);
  ASSERT_TRUE(queue_->CompleteLease(completion).ok());

  ListJobsRequest request;
  request.set_parent("projects/p");
  const auto listed = queue_->ListJobs(request)->jobs(0).report();
  EXPECT_EQ(listed.layers_size(), 0);
  EXPECT_EQ(listed.training().loss_curve_size(), 0);
  EXPECT_EQ(listed.training().steps(), 200);
  EXPECT_EQ(listed.perplexity(0).quantized(), 12.5);
  EXPECT_EQ(Get(job.name()).report().SerializeAsString(), report.SerializeAsString());
}

}  // namespace
}  // namespace teq::queue
