#pragma once

#include <string>

#include "teq/v1/report.pb.h"

namespace teq::report {

/// A report as one page for a browser or for paper: HTML that is well-formed XML too, with its
/// style and its drawings inside. It loads nothing and runs no script, and its
/// Content-Security-Policy says so. Names, uris and notes may hold anything; numbers that are not
/// finite are written as such and left out of drawings. Long curves and very many layers are
/// thinned; report.json has all.
[[nodiscard]] std::string ReportPage(const teq::v1::Report& report);

}  // namespace teq::report
