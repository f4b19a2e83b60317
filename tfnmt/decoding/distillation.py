"""A corpus whose targets are a teacher's translations (Kim & Rush 2016, "Sequence-Level Knowledge Distillation").

The sources are cut into chunks, and a chunk's translations are one file, which is there as a whole or not at all. A
chunk is translated in the same batches whatever else happens, so that a run that was killed, or had another number of
processes, ends with the same bytes.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU

from tfnmt import durable_files
from tfnmt.data.corpus import DESCRIPTION
from tfnmt.data.files import TextPair, read_pairs
from tfnmt.data.vocabulary import JOINT_NAME, SOURCE_NAME, TARGET_NAME
from tfnmt.decoding.engine import Translate
from tfnmt.decoding.streams import chunks
from tfnmt.decoding.translator import Hypothesis
from tfnmt.errors import UserError
from tfnmt.evaluation import tokenizer_for

WORK, JOB = ".work", "job.json"

Choose = Callable[[Sequence[Hypothesis], str], str]
"""(hypotheses of a sentence, its reference) -> the text that a student is to learn."""


def best_score(hypotheses: Sequence[Hypothesis], reference: str) -> str:
    """The translation that the teacher itself likes best."""
    return hypotheses[0].text


def nearest_to_reference(target_language: str | None) -> Choose:
    """Chooses the translation with the highest sentence BLEU; of equal ones, that which the teacher likes best.

    This is the sequence-level interpolation of the paper.
    """
    bleu = BLEU(tokenize=tokenizer_for(target_language), effective_order=True)

    def choose(hypotheses: Sequence[Hypothesis], reference: str) -> str:
        scores = [bleu.sentence_score(hypothesis.text, [reference]).score for hypothesis in hypotheses]
        return hypotheses[int(np.argmax(scores))].text

    return choose


@dataclasses.dataclass(frozen=True)
class Distillation:
    """The chunks of one corpus.

    Attributes:
      output: the directory of the corpus.
      files: the text that the teacher translates, two files.
      pairs: how many sentence pairs they have.
      chunk_pairs: how many of them a chunk has.
    """

    output: Path
    files: TextPair
    pairs: int
    chunk_pairs: int

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Makes the directory, or goes on in one that was begun with the same `facts`.

        Raises:
          UserError: it holds something else, or was begun with other facts.
        """
        job, facts = self.work / JOB, json.loads(json.dumps(facts))
        if job.exists():
            begun = json.loads(job.read_text("utf-8"))
            other = [name for name in facts if facts[name] != begun.get(name)]
            if other:
                shown = "; ".join(f"{name}: {begun.get(name)} then, {facts[name]} now" for name in other)
                raise UserError(
                    f"--output={self.output}: was begun with other settings ({shown}). Go on with the old ones, "
                    "remove it, or choose another."
                )
            return
        if self.output.exists() and any(path != self.work for path in self.output.iterdir()):
            raise UserError(f"--output={self.output} is not empty. Choose another, or remove it.")
        self.work.mkdir(parents=True, exist_ok=True)
        durable_files.replace(job, json.dumps(facts, ensure_ascii=False, indent=2).encode())

    def missing_pairs(self) -> int:
        """Sentence pairs of chunks that are not translated yet."""
        missing = [number for number in range(self._chunks) if not self._part(number).exists()]
        return sum(min(self.chunk_pairs, self.pairs - number * self.chunk_pairs) for number in missing)

    def translate(
        self, translate: Translate, choose: Choose, report: Callable[[int], None], shard: int = 0, shards: int = 1
    ) -> None:
        """Translates the missing chunks among every `shards`-th from `shard` on; `report` is told of sentences."""
        for number, pairs in enumerate(chunks(read_pairs(self.files), self.chunk_pairs)):
            part = self._part(number)
            if number % shards != shard or part.exists():
                continue
            translated = translate([source for source, _ in pairs], lambda sentences, _: report(sentences))
            lines = (choose(found, reference) for found, (_, reference) in zip(translated, pairs))
            durable_files.replace(part, "".join(" ".join(line.split("\n")) + "\n" for line in lines).encode())
            report(sum(not found[0].tokens for found in translated))  # empty lines, of which no batch reports

    def finish(self, target_name: str, copies: Sequence[Path], facts: Mapping[str, Any]) -> None:
        """Makes the corpus of the chunks, all of which are there; corpus.json comes last and vouches for it.

        Args:
          target_name: name of the file of translations.
          copies: files that the corpus has as they are.
          facts: what corpus.json says beside the files.
        """
        for path in copies:
            shutil.copyfile(path, self.output / path.name)
        aside = self.work / target_name
        aside.unlink(missing_ok=True)
        durable_files.write(aside, self._translations())
        aside.rename(self.output / target_name)
        names = sorted(path.name for path in self.output.iterdir() if path.name not in (WORK, DESCRIPTION))
        files = {name: dataclasses.asdict(durable_files.fingerprint(self.output / name)) for name in names}
        text = json.dumps({**facts, "files": files}, indent=2, ensure_ascii=False)
        durable_files.replace(self.output / DESCRIPTION, f"{text}\n".encode())
        shutil.rmtree(self.work)

    @property
    def work(self) -> Path:
        """The directory of what is not finished, inside of `output`."""
        return self.output / WORK

    def _part(self, number: int) -> Path:
        return self.work / f"part-{number:08d}"

    @property
    def _chunks(self) -> int:
        return -(-self.pairs // self.chunk_pairs)

    def _translations(self) -> Iterator[bytes]:
        for number in range(self._chunks):
            yield self._part(number).read_bytes()


def vocabulary_files(directory: Path) -> list[Path]:
    """The files of the vocabularies in a run directory or an exported folder."""
    return [path for name in (JOINT_NAME, SOURCE_NAME, TARGET_NAME) if (path := directory / name).exists()]
