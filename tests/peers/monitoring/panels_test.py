"""The drawing of panels puts every number where it belongs."""

import re
import unittest
import xml.etree.ElementTree

import panels

SVG = "{http://www.w3.org/2000/svg}"


def panel(kind, unit="short", **defaults):
    return {"type": kind, "title": "T", "gridPos": {"x": 0, "y": 0, "w": 12, "h": 8},
            "fieldConfig": {"defaults": {"unit": unit, **defaults}},
            "targets": [{"expr": "e", "legendFormat": "{{job}}"}]}


def drawn(one, *series, span=(100, 200)):
    """The elements of a dashboard of one panel whose query gives `series`, each a list of (time, value)."""
    answers = [{"metric": {"job": f"projects/p/jobs/j{i}"}, "values": [(t, str(v)) for t, v in values]}
               for i, values in enumerate(series)]
    return xml.etree.ElementTree.fromstring(panels.draw({"panels": [one]}, lambda _: answers, span))


def words(root):
    return [element.text for element in root.iter(SVG + "text")]


class PanelsTest(unittest.TestCase):
    def test_line_goes_from_the_first_moment_at_the_bottom_to_the_last_at_the_top(self):
        (line,) = drawn(panel("timeseries"), [(100, 0), (150, 5), (200, 10)]).iter(SVG + "polyline")
        points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        (left, bottom), (middle, half), (right, top) = points
        self.assertAlmostEqual(middle, (left + right) / 2, delta=0.1)
        self.assertAlmostEqual(half, (bottom + top) / 2, delta=0.1)
        self.assertLess(top, bottom)
        self.assertTrue(0 < left < right < 12 * 40 and 0 < top < bottom < 8 * 26, points)

    def test_what_is_not_a_number_is_left_out(self):
        (line,) = drawn(panel("timeseries"), [(100, 1), (150, "NaN"), (200, 2)]).iter(SVG + "polyline")
        self.assertEqual(len(line.get("points").split()), 2)

    def test_panel_without_data_says_so(self):
        self.assertIn("no data", words(drawn(panel("timeseries"))))
        self.assertNotIn("no data", words(drawn(panel("timeseries"), [(100, 1)])))

    def test_stat_shows_the_newest_value_with_its_unit(self):
        self.assertIn("2 KiB", words(drawn(panel("stat", "bytes"), [(100, 1), (200, 2048)])))
        self.assertIn("25 %", words(drawn(panel("stat", "percentunit"), [(200, 0.25)])))
        self.assertIn("50 ms", words(drawn(panel("stat", "s"), [(200, 0.05)])))

    def test_timeline_is_as_long_as_its_stages(self):
        options = {"1": {"text": "fetch", "color": "blue"}, "2": {"text": "round", "color": "red"}}
        stages = panel("state-timeline", mappings=[{"type": "value", "options": options}])
        root = drawn(stages, [(100, 1), (125, 1), (150, 2), (200, 2)])
        widths = {element.get("fill"): float(element.get("width")) for element in root.iter(SVG + "rect")}
        self.assertAlmostEqual(widths["#5794f2"], widths["#f2495c"], delta=0.2)
        self.assertLessEqual({"fetch", "round", "j0"}, set(words(root)))

    def test_names_are_escaped_and_paths_cut(self):
        text = panels.draw({"panels": [dict(panel("timeseries"), title="a < b & c")]}, lambda _: [], (0, 1))
        self.assertTrue(re.search("a &lt; b &amp; c", text))


if __name__ == "__main__":
    unittest.main()
