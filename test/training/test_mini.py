"""The small reasoner's recipe: words, examples, quick ways through the model, a run in small."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')

from safetensors.torch import load_file

from segzero_ros.config import load_pipeline, read_profile, reasoner_options
from segzero_ros.loading import load_reasoner
from segzero_ros.reasoning.checkpoints import local_folder
from segzero_ros.reasoning.dialects import dialect_named
from segzero_ros.reasoning.patch_position_codes import with_position_codes
from segzero_ros.reasoning.preprocessing import resize_for_model
from segzero_ros.simulation.scenes import make_scene
from segzero_ros.training.mini import dense_heads, stage_runner
from segzero_ros.training.mini import recipe as recipes
from segzero_ros.training.mini.architecture import (
    FastLanguageModel,
    FastVisionTower,
    model_images,
    new_model,
    patches_of,
)
from segzero_ros.training.mini.checkpoint import make_processor
from segzero_ros.training.mini.dataset import make_scenes
from segzero_ros.training.mini.dense_targets import dense_targets, KINDS
from segzero_ros.training.mini.geometry import GRID, PATCH, SIDE, TOKENS
from segzero_ros.training.mini.packed_sequences import (
    AFTER,
    batch_of,
    BEFORE,
    embedded,
    Loss,
    mask_of,
    SequencePacker,
    TURN,
)
from segzero_ros.training.mini.recipe import chosen, make, Recipe, TRAINING_SEED
from segzero_ros.training.mini.rendered_scenes import HEIGHT, render_scene, RenderedScene, WIDTH
from segzero_ros.training.mini.sft_examples import examples_of, phrases_in, SftExample
from segzero_ros.training.mini.vocabulary import IMAGE, make_tokenizer
from segzero_ros.types import Frame, Query, ReasonerUnavailable, Status

SEED = 52


@pytest.fixture(scope='module')
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope='module')
def model(tokenizer: Any) -> Any:
    return new_model(tokenizer, 1).eval()


@pytest.fixture(scope='module')
def scene() -> tuple[Any, RenderedScene]:
    return render_scene(SEED, SIDE)


class TestWords:
    def test_every_coordinate_is_one_token(self, tokenizer: Any) -> None:
        count = len(tokenizer('[')['input_ids'])
        for value in range(SIDE + 1):
            assert len(tokenizer(f'[{value}, {value}')['input_ids']) == count + 2

    @given(st.text(max_size=40))
    @settings(deadline=None, max_examples=200)
    def test_whatever_is_asked_is_read_back(self, text: str) -> None:
        tokenizer = make_tokenizer()
        assert tokenizer.decode(tokenizer(text)['input_ids']) == text

    def test_no_sentence_or_answer_about_a_scene_falls_apart_into_bytes(
        self, tokenizer: Any, scene: tuple[Any, RenderedScene]
    ) -> None:
        for example in examples_of(scene[1], SIDE):
            for text in (example.question, example.answer):
                tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)['input_ids'])
                assert not [t for t in tokens if len(t) == 1 and t.isalpha() and t not in 'ai']


class TestSftExamples:
    def test_the_answer_is_the_truth_in_the_dialect_s_grammar(
        self, scene: tuple[Any, RenderedScene]
    ) -> None:
        kept = scene[1]
        kinds = set()
        for example, sentence in zip(examples_of(kept, SIDE), kept.sentences, strict=False):
            answer = dialect_named('mini').parse(example.answer, WIDTH, HEIGHT, 'strict')
            true = [kept.objects[index].box for index in sentence.targets]
            assert len(answer.objects) == len(true)
            for found in answer.objects:
                assert min(np.abs(np.subtract(found.box, box)).max() for box in true) <= 2
            assert answer.reasoning
            kinds.add(example.kind)
        assert len(kinds) == 9

    def test_a_mirrored_example_has_the_other_side(self, scene: tuple[Any, RenderedScene]) -> None:
        pairs = zip(examples_of(scene[1], SIDE), examples_of(scene[1], SIDE, True), strict=True)
        told = [(one, other) for one, other in pairs if 'leftmost' in one.question]
        assert told
        for one, other in told:
            assert other.question == one.question.replace('leftmost', 'rightmost')
            (found,), (turned,) = (
                dialect_named('mini').parse(each.answer, SIDE, SIDE).objects
                for each in (one, other)
            )
            x1, y1, x2, y2 = found.box
            assert turned.box == (SIDE - x2, y1, SIDE - x1, y2)

    @pytest.mark.parametrize(
        ('question', 'phrases'),
        [
            ('can you see the dark red can', ['dark red can']),
            ('show me all the gray boxes', ['gray box']),
            ('something teal', ['teal object']),
            ('the flat thing between the ball and the mug', ['flat thing', 'ball', 'mug']),
            ('find the banana', ['banana']),
        ],
    )  # fmt: skip
    def test_descriptions_are_found_in_a_question(self, question: str, phrases: list[str]) -> None:
        assert phrases_in(question) == phrases

    def test_kinds_are_chosen_alike(self) -> None:
        examples = [SftExample('none', str(number), '') for number in range(20)]
        examples += [SftExample('colour', '', ''), SftExample('size', '', '')]
        kinds = [each.kind for each in chosen(examples, 4, np.random.default_rng(0))]
        assert sorted(kinds) == ['colour', 'none', 'none', 'size']


class TestPictures:
    def test_every_patch_is_marked_otherwise_and_little_else_is_touched(self) -> None:
        grey = np.full((SIDE, SIDE, 3), 90, np.uint8)
        shown = with_position_codes(grey, PATCH)
        assert (grey == 90).all()
        assert (shown != 90).any(-1).sum() <= 4 * TOKENS
        corners = shown.reshape(GRID, PATCH, GRID, PATCH, 3)[:, :2, :, :2].swapaxes(1, 2)
        assert len(np.unique(corners.reshape(TOKENS, -1), axis=0)) == TOKENS

    def test_the_processor_makes_the_same_patches(self, tokenizer: Any) -> None:
        picture = make_scene(SEED, width=320, height=240).frame.image
        seen = resize_for_model(dialect_named('mini'), picture)
        processed = make_processor(tokenizer).image_processor(images=[seen], return_tensors='pt')
        assert processed['image_grid_thw'].tolist() == [[1, GRID, GRID]]
        frames = processed['pixel_values'].view(TOKENS, 3, 2, -1)
        ours = patches_of(model_images(seen[None])).view(TOKENS, 3, -1)
        assert torch.allclose(frames[:, :, 0], ours, atol=1e-5)

    def test_every_visible_object_has_its_tokens(self, scene: tuple[Any, RenderedScene]) -> None:
        names, places = dense_targets(scene[1])
        owned = names[:, 0] > 0
        x1, y1, x2, y2, x, y = places[owned].T
        assert ((x1 < x) & (x < x2) & (y1 < y) & (y < y2)).all()
        kinds = {KINDS[kind] for kind in names[names[:, 3] == 1, 0]}
        assert kinds == {item.kind for item in scene[1].objects if item.area}

    def test_a_changed_picture_keeps_its_truth(self, scene: tuple[Any, RenderedScene]) -> None:
        picture, kept = scene
        names, places = dense_targets(kept)
        batch = [np.stack([each] * 8) for each in (picture, names, places)]
        view = dense_heads.augmented(*batch, np.random.default_rng(2))
        assert len({array.tobytes() for array in view.places.numpy()}) > 2
        for row in range(8):
            # The token of an inner point lies where that point is said to be.
            where = torch.nonzero(view.names[row, :, 3])[:, 0]
            points = view.places[row, where, 4:] // PATCH
            tokens = points[:, 1] * GRID + points[:, 0]
            near = torch.isin(where, torch.cat([tokens.long() + d for d in (-1, 0, 1)]))
            assert near.all()


class TestQuickWays:
    def test_the_tower_says_what_transformers_own_says(self, model: Any) -> None:
        pictures = np.random.default_rng(0).integers(0, 255, (2, SIDE, SIDE, 3), np.uint8)
        patches = patches_of(model_images(pictures))
        both = torch.stack([patches.view(2, TOKENS, 3, -1)] * 2, 3).reshape(2 * TOKENS, -1)
        with torch.no_grad():
            ours = FastVisionTower(model.model.visual)(patches).flatten(0, 1)
            grid = torch.tensor([[1, GRID, GRID]] * 2)
            theirs = model.model.visual(both, grid_thw=grid, return_dict=True).pooler_output
        assert torch.allclose(ours, theirs, atol=1e-4)

    def test_a_question_among_others_reads_as_if_it_stood_alone(
        self, model: Any, tokenizer: Any, scene: tuple[Any, RenderedScene]
    ) -> None:
        examples = examples_of(scene[1], SIDE)[:4]
        writer = SequencePacker(tokenizer)
        features = torch.randn(1, TOKENS, model.config.text_config.hidden_size)
        sequence = writer.sequence(examples)
        text = BEFORE + IMAGE * TOKENS + AFTER + examples[2].question + TURN + examples[2].answer
        ids = tokenizer(text, return_tensors='pt')['input_ids']
        places = ids == model.config.image_token_id
        with torch.no_grad():
            batch, embed = batch_of(writer, [sequence]), model.get_input_embeddings()
            hidden = embedded(embed, writer, batch, features)
            ours = FastLanguageModel(model)(hidden, batch.positions, mask_of(batch.parts))[0][0]
            embeds = embed(ids)
            embeds = embeds.masked_scatter(places[..., None], features)
            positions, _ = model.model.get_rope_index(
                ids, mm_token_type_ids=places.int(), image_grid_thw=torch.tensor([[1, GRID, GRID]])
            )
            theirs = model.model.language_model(
                inputs_embeds=embeds, position_ids=positions, use_cache=False
            ).last_hidden_state[0]
        own = ours[-len(sequence.parts) :][sequence.parts == 2]
        assert torch.allclose(own, theirs[-len(own) :], atol=1e-4)

    def test_a_near_miss_of_a_coordinate_costs_less_than_a_far_one(self, tokenizer: Any) -> None:
        writer = SequencePacker(tokenizer)
        true, near, far = (tokenizer(f', {value}')['input_ids'][0] for value in (100, 102, 150))
        logits = torch.zeros(2, len(tokenizer))
        logits[0, near], logits[1, far] = 9.0, 9.0
        loss = Loss(writer, torch.device('cpu'))
        costs = [float(loss(row[None], torch.tensor([true]))) for row in logits]
        assert costs[0] < costs[1] - 0.5


class Broken(Exception):
    """A stage was broken off."""


def trained(folder: Path, *breaks: int) -> Any:
    """Train one layer for 220 steps, broken off after so many calls each time."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 1)
    left = breaks[0] if breaks else 1000

    def step(batch: Any) -> tuple[Any, stage_runner.Figures]:
        nonlocal left
        left -= 1
        if left < 0:
            raise Broken
        return layer(batch).square().mean(), {}

    def draw(rng: np.random.Generator) -> Any:
        return torch.from_numpy(rng.random((4, 3), np.float32))

    # Who draws the batches makes no difference.
    workers = 2 if breaks else 0
    try:
        stage_runner.run(
            stage_runner.Stage('s', 220, 0.01), [layer], draw, step, dict, folder, workers
        )
    except Broken:
        return trained(folder, *breaks[1:])
    return layer.weight


def test_a_stage_that_was_broken_off_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, broken = trained(tmp_path / 'a'), trained(tmp_path / 'b', 130, 50)
    assert torch.equal(whole, broken)


def test_a_stage_begun_otherwise_is_not_continued(tmp_path: Path) -> None:
    trained(tmp_path)
    for other in (
        stage_runner.Stage('s', 220, 0.02),
        stage_runner.Stage('s', 220, 0.01, drawn='other scenes'),
    ):
        with pytest.raises(stage_runner.StageError, match='another folder'):
            stage_runner.run(other, [torch.nn.Linear(3, 1)], dict, dict, dict, tmp_path)


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """Return a run of the whole recipe in small, and its checkpoint."""
    pytest.importorskip('matplotlib')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    recipe = Recipe(
        tmp_path_factory.mktemp('mini'), scenes=1, unseen=1, vision_steps=3, pictures=2,
        language_steps=150,
        packed=1, questions=4, workers=1,
    )  # fmt: skip
    folder = make(recipe)
    torch.set_num_threads(threads)
    return recipe, folder


def test_the_recipe_makes_a_checkpoint_that_thinks_and_answers(
    made: tuple[Recipe, Path],
) -> None:
    options = reasoner_options(
        read_profile('mini', overrides={'reasoner.model': str(made[1])}).__getitem__
    )
    frame = Frame(make_scene(TRAINING_SEED).frame.image)
    said = []
    for fast in (True, False):
        reasoner = load_reasoner(replace(options, fast_decoding=fast, answer_parser='repair'))
        answer = reasoner.reason(frame, Query('the leftmost thing'))
        said.append(answer.raw_answer)
        reasoner.close()
    assert said[0] == said[1]
    assert said[0].startswith('<think>')
    assert '</think><answer>[' in said[0]
    assert (made[1] / 'model.safetensors').stat().st_size < 16 << 20


def test_the_recipe_is_not_repeated_where_it_is_done(made: tuple[Recipe, Path]) -> None:
    recipe, folder = made
    weights = (folder / 'model.safetensors').read_bytes()
    figures = (recipe.folder / 'words.jsonl').read_text()
    assert make(recipe) == folder
    assert (folder / 'model.safetensors').read_bytes() == weights
    assert (recipe.folder / 'words.jsonl').read_text() == figures
    assert (recipe.folder / 'curves.png').exists()


def test_a_further_round_begins_with_the_weights_of_the_last(
    made: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, '_HEAD_STEPS', 2)
    monkeypatch.setattr(recipes, '_HEAD_BATCH', 2)
    recipe, start = made
    other = replace(recipe, folder=tmp_path, start=str(start), first=1)
    again = make(
        replace(other, vision_steps=1, language_steps=1, vision_rate=1e-9, language_rate=1e-9)
    )
    before, after = (load_file(folder / 'model.safetensors') for folder in (start, again))
    assert all(torch.equal(before[name], after[name]) for name in before)
    seeds = {path.name.split('-')[0] for path in (tmp_path / 'scenes').glob('1*.jsonl')}
    assert seeds == {str(TRAINING_SEED + 1)}, 'scenes that the start has not seen'


def test_words_can_be_taught_anew_on_trained_eyes(
    made: tuple[Recipe, Path], tmp_path: Path
) -> None:
    recipe, start = made
    other = replace(
        recipe, folder=tmp_path, start=str(start), vision_steps=0, language_steps=1, seed=5
    )
    with pytest.raises(stage_runner.StageError, match='all or eyes'):
        make(replace(other, kept='ears'))
    before, after = (
        load_file(folder / 'model.safetensors')
        for folder in (start, make(replace(other, kept='eyes')))
    )
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith('visual.')} <= same
    assert 'model.layers.0.mlp.up_proj.weight' not in same


def test_heads_learn_to_read_a_tower_that_stays_as_it_is(
    model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(recipes, '_HEAD_STEPS', 12)
    monkeypatch.setattr(recipes, '_HEAD_BATCH', 2)
    seen = make_scenes(tmp_path, SEED, 2, 1)
    tower, heads = FastVisionTower(model.model.visual), dense_heads.Heads()
    view = dense_heads.unaugmented(seen.pictures, seen.names, seen.places)
    before = tower(patches_of(view.pictures))

    def loss() -> float:
        return float(heads(tower(patches_of(view.pictures)), view)[0].detach())

    first = loss()
    recipes.fit_heads(heads, tower, seen)
    assert loss() < 0.9 * first
    assert torch.equal(tower(patches_of(view.pictures)), before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_weights_that_come_with_the_package_answer_about_unseen_scenes(
    one_thread: None,
) -> None:
    pipeline = load_pipeline(read_profile('mini'))
    covered = []
    for seed in range(300_000, 300_003):
        scene = make_scene(seed)
        size = scene.labels.shape
        for sentence in scene.sentences:
            if not sentence.targets:
                continue
            answer = pipeline.answer(scene.frame, Query(sentence.text))
            assert answer.status in (Status.OK, Status.NOT_FOUND)
            found = np.zeros(size, np.bool_)
            for segment in answer.segments:
                found |= segment.full_mask(*size)
            truth = np.logical_or.reduce([scene.mask(target) for target in sentence.targets])
            covered.append((found & truth).sum() / (found | truth).sum())
    pipeline.close()
    assert len(covered) > 15
    assert np.mean(covered) >= 0.7


@pytest.mark.parametrize('given', ['./mini', 'mini/', '{}/mini'])
def test_a_folder_of_the_users_is_not_taken_for_what_comes_with_the_package(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'mini').mkdir()
    (tmp_path / 'mini' / 'config.json').touch()
    monkeypatch.chdir(tmp_path)
    found = local_folder(given.format(tmp_path))
    assert found is not None
    assert found.resolve() == tmp_path / 'mini'
    assert (local_folder('mini') or tmp_path).parent.name == 'checkpoints'


def test_a_profile_with_a_folder_that_is_not_there_names_the_recipe(tmp_path: Path) -> None:
    profile = read_profile('mini', overrides={'reasoner.model': str(tmp_path / 'checkpoint')})
    with pytest.raises(ReasonerUnavailable, match=r'python -m segzero_ros\.training\.mini'):
        load_reasoner(reasoner_options(profile.__getitem__))
