#pragma once

#include <string_view>

namespace teq::report {

/// The page's style sheet. Holds neither "<" nor "&", which XML would take for markup. The colours
/// of blue against orange are told apart by the colour-blind, and on paper the light ones hold.
extern const std::string_view kPageStyle;

}  // namespace teq::report
