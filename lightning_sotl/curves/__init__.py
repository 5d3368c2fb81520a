"""From files to `LearningCurves`: records, Lightning's logs, and public benchmarks' formats."""
