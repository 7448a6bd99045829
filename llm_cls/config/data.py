"""The sections that choose the texts and the form in which the network reads them."""

from typing import Literal, Self

from pydantic import Field, model_validator

from llm_cls.config.corpus import CorpusConfig, description_faults, file_faults
from llm_cls.config.fields import (
    AtLeastThree,
    AtLeastTwo,
    Location,
    MayHoldSecret,
    Name,
    NonNegativeInt,
    PositiveInt,
    Seed,
)
from llm_cls.config.table import Files, HubKeys, TableKeys, dataset_faults
from llm_cls.config.texts import Columns


class DataConfig(TableKeys, HubKeys, CorpusConfig):
    """The texts, and how they are split, cut and grouped into steps."""

    name: Name = Field(
        description="Name of the corpus: one of the choices of the group data.",
        examples=["data=sample"],
    )
    cache_dir: Location = Field(
        description="Folder for the downloaded archive and for the token cache.",
        examples=["data.cache_dir=/scratch/llm_cls"],
        json_schema_extra={"default": "$LLM_CLS_CACHE, or ~/.cache/llm_cls"},
    )
    url: MayHoldSecret | None = Field(
        None,
        description="Address of the livedoor archive (data=livedoor); passwords and tokens in it are not stored.",
        examples=["data.url=https://www.rondhuit.com/download/ldcc-20140209.tar.gz"],
    )
    download_timeout_seconds: float = Field(
        1800,
        gt=0,
        description="Limit in seconds for the download of the archive, or for waiting while another process downloads "
        "it (data=livedoor).",
        examples=["data.download_timeout_seconds=600"],
    )
    download_stall_seconds: float = Field(
        60,
        gt=0,
        description="Seconds without a byte after which the download is tried again (data=livedoor).",
        examples=["data.download_stall_seconds=10"],
    )
    archive: Location | None = Field(
        None,
        description="Local copy of the livedoor archive, instead of the download (data=livedoor).",
        examples=["data.archive=ldcc-20140209.tar.gz"],
    )
    file: Files | None = Field(
        None,
        description="Table that is split into train, val and test: a file, a folder of files, a pattern such as "
        "'data/*.csv', or a list of them (data=table).",
        examples=["data.file=texts.csv"],
        json_schema_extra={"must_be": "a path or a list of paths"},
    )
    train_file: Files | None = Field(
        None,
        description="Table of the training texts, where the split is given (data=table). By itself it is split as "
        "data.file is; without data.val_file, val is a tenth of it.",
        examples=["data.train_file=train.csv"],
        json_schema_extra={"must_be": "a path or a list of paths"},
    )
    val_file: Files | None = Field(
        None,
        description="Table of the validation texts, where the split is given (data=table).",
        examples=["data.val_file=val.csv"],
        json_schema_extra={"must_be": "a path or a list of paths"},
    )
    test_file: Files | None = Field(
        None,
        description="Table of the test texts, where the split is given (data=table); without it, beside data.val_file, "
        "the scores are those of val only.",
        examples=["data.test_file=test.csv"],
        json_schema_extra={"must_be": "a path or a list of paths"},
    )
    text: Columns | None = Field(
        None,
        description="Name of the column with the text (data=table). Of a list, {body} has each column on a line "
        "of its own.",
        examples=["data.text=text", "data.text=[premise,hypothesis]"],
        json_schema_extra={"must_be": "the name of a column, or a list of names, or null"},
    )
    title: Name | None = Field(
        None,
        description="Name of the column with the title, beside data.body (data=table).",
        examples=["data.title=title"],
    )
    body: Name | None = Field(
        None,
        description="Name of the column with the body, instead of data.text (data=table).",
        examples=["data.body=body"],
    )
    label: Name | None = Field(
        None, description="Name of the column with the label (data=table).", examples=["data.label=label"]
    )
    id: Name | None = Field(
        None,
        description="Name of the column with the id of each text; null numbers the rows (data=table).",
        examples=["data.id=id"],
    )
    split_seed: Seed = Field(
        42, description="Seed of the split into train, val and test.", examples=["data.split_seed=7"]
    )
    folds: AtLeastThree | None = Field(
        None,
        description="Number of folds of a cross-validation; null splits 8:1:1 instead.",
        examples=["data.folds=5"],
    )
    fold: NonNegativeInt = Field(
        0,
        description="Fold that is the test split, counted from 0, or a value of data.fold_column; the next one is val.",
        examples=["data.fold=1"],
    )
    limit: PositiveInt | None = Field(
        None,
        description="Number of texts to use from each split, for trials: a sample with every label in its share, "
        "drawn with data.split_seed; null uses all.",
        examples=["data.limit=100"],
    )
    max_length: AtLeastTwo = Field(
        512, description="Maximum number of tokens per text, including EOS.", examples=["data.max_length=128"]
    )
    truncation: Literal["body", "end"] = Field(
        "body",
        description="What is cut off a text that is too long. body: the end of its body. end: the end of the whole "
        "sequence, as in the published experiment.",
        examples=["data.truncation=end"],
    )
    batch_size: PositiveInt = Field(
        32, description="Texts per optimizer step, over all devices.", examples=["data.batch_size=8"]
    )
    micro_batch_size: PositiveInt | None = Field(
        None,
        description="Texts per forward and backward pass on one device. It changes memory and speed only. null: all "
        "texts that the step has on that device.",
        examples=["data.micro_batch_size=4"],
    )
    eval_batch_size: PositiveInt | None = Field(
        None,
        description="Texts per evaluation batch on one device. null: twice the micro batch, at least 32, on a GPU 128.",
        examples=["data.eval_batch_size=64"],
    )

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        faults = []
        if self.fold and self.folds is None and self.fold_column is None:
            faults.append(f"data.fold={self.fold} needs data.folds. Try data.folds=5")
        if self.folds is not None and self.fold >= self.folds:
            faults.append(f"data.fold must be < data.folds ({self.folds}), got {self.fold}. The first is data.fold=0")
        if self.limit is not None and self.limit < self.batch_size:
            faults.append(
                f"data.limit must be >= data.batch_size ({self.batch_size}), got {self.limit}. "
                f"Try data.limit={self.batch_size}"
            )
        of_source = {"table": file_faults, "hub": dataset_faults}
        if self.name in of_source:
            faults += [*of_source[self.name](self), *description_faults(self)]
        if faults:
            raise ValueError("\n".join(faults))
        return self

    @property
    def body_columns(self) -> list[str]:
        """The columns that ``{body}`` stands for."""
        text = self.text or self.body
        return text if isinstance(text, list) else [text] if text else []

    @property
    def input_columns(self) -> list[str]:
        """All columns that a template may use, as the file names them."""
        title = [self.title] if self.title else []
        return list(dict.fromkeys([*title, *self.body_columns, *(self.columns or ())]))
