"""What the tests of the data share."""

import pytest

from tests.data.text import generated_pairs
from tfnmt.data.vocabulary import Vocabulary
from tfnmt.data.vocabulary_training import VocabularySettings, train_vocabulary


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory) -> Vocabulary:
    """A joint vocabulary of the generated language."""
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.model"
    lines = [line for pair in generated_pairs(400) for line in pair]
    train_vocabulary(lines, path, VocabularySettings(vocabulary_size=120, character_coverage=1.0))
    return Vocabulary(path)
