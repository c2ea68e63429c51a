"""The explorer's layout, a marimo notebook that `saev explore` runs; what it shows is computed by the other modules."""

import marimo

app = marimo.App(width="full", app_title="saev explore")


@app.cell
def _():
    from html import escape

    import marimo as mo
    import polars as pl

    from saev.explore import cards, plots, server
    from saev.explore.compare import KINDS, compare_with
    from saev.explore.latents import RANGES, Filters, filtered, first_latent, open_ended
    from saev.explore.opening import opened_at, prepare
    from saev.explore.runs import chosen_runs, settings_of
    from saev.explore.tables import table
    from saev.explore.widget import Pictures

    def said(text):
        """A text that is not markup, in lines that wrap (mo.plain_text keeps them as they are)."""
        return mo.Html(f'<p style="white-space: pre-wrap">{escape(text)}</p>' if text else "")

    session = server.current()
    runs = session.runs()
    return (
        Filters, KINDS, Pictures, RANGES, cards, chosen_runs, compare_with, escape, filtered, first_latent, mo,
        open_ended, opened_at, pl, plots, prepare, runs, said, session, settings_of, table,
    )  # fmt: skip


@app.cell
def _(mo, runs, session):
    get_path, set_path = mo.state(session.first(runs))
    get_latent, set_latent = mo.state(None)
    get_example, set_example = mo.state(None)
    get_tab, set_tab = mo.state("Runs")
    get_encoded, set_encoded = mo.state(0)
    get_named, set_named = mo.state(0)
    get_pair, set_pair = mo.state(None)

    followed = {}

    def follow(widget, other=None):
        """Go once where the last click in pictures leads; `other`: the path of the dictionary that it is compared with."""
        _chosen = widget.value.get("chosen")
        if not _chosen or followed.get(id(widget)) == _chosen:
            return
        followed[id(widget)] = _chosen
        kind, number, _ = _chosen
        if kind == "other":
            set_path(other)
        (set_example if kind == "example" else set_latent)(number)
        set_tab("Image" if kind == "example" else "Latent")

    return (
        follow, get_encoded, get_example, get_latent, get_named, get_pair, get_path, get_tab,
        set_encoded, set_example, set_latent, set_named, set_pair, set_path, set_tab,
    )  # fmt: skip


@app.cell
def _(Pictures, mo):
    # Made once: what they show is set below. Made anew with each click, a browser may ask for a script that is gone already.
    previews, top, picked, sides = (mo.ui.anywidget(Pictures()) for _ in range(4))
    return picked, previews, sides, top


@app.cell
def _(mo, runs, settings_of):
    _columns = settings_of(runs) or ["kind"]
    colour = mo.ui.dropdown(_columns, value="kind" if "kind" in _columns else _columns[0], label="colour")
    shape = mo.ui.dropdown(["", *_columns], value="layer" if "layer" in _columns else "", label="shape")
    pareto = mo.ui.checkbox(label="Pareto-optimal only")
    _layers = sorted(map(str, runs["layer"].drop_nulls().unique().to_list()), key=lambda one: (len(one), one))
    layers = mo.ui.multiselect(_layers, label="layers")
    sparse = mo.ui.checkbox(value=True, label="L0 below a tenth of the latents")
    return colour, layers, pareto, shape, sparse


@app.cell
def _(chosen_runs, layers, pareto, runs, set_latent, set_path, set_tab, sparse, table):
    shown_runs = chosen_runs(runs, pareto.value, layers.value, sparse.value)

    def choose_run(chosen):
        if len(chosen):
            set_path(chosen["path"][0])
            set_latent(None)
            set_tab("Latents")

    run_table = table(shown_runs, choose_run, digits=4, page_size=12, freeze_columns_left=["name"], max_columns=None)
    return choose_run, run_table, shown_runs


@app.cell
def _(choose_run, colour, mo, plots, shape, shown_runs):
    plot = mo.md("No dictionary has a finite L0 and NMSE.")
    if {"l0", "nmse"} <= {*shown_runs.columns} and len(shown_runs):
        plot = mo.ui.altair_chart(
            plots.frontier_chart(shown_runs, colour.value, shape.value or None), chart_selection=False, legend_selection=False,
            on_change=lambda chosen: choose_run(chosen) if len(chosen) == 1 else None,
        )  # fmt: skip
    return (plot,)


@app.cell
def _(colour, layers, mo, pareto, plot, run_table, shape, sparse):
    _controls = mo.hstack([colour, shape, layers, pareto, sparse], justify="start", gap=1.5, wrap=True)
    runs_view = mo.vstack(
        [
            _controls,
            mo.md("Click a point, or the box of a row, to open the dictionary. Rings: Pareto-optimal."),
            plot,
            run_table,
        ]
    )
    return (runs_view,)


@app.cell
def _(get_encoded, get_named, get_path, mo, opened_at, runs, session):
    path, _ = get_path(), (get_encoded(), get_named())  # again when codes or a name have been added
    opened, problem = None, None
    with mo.status.spinner("Opening codes, atoms and results"):
        try:
            opened = opened_at(path, session)
        except ValueError as error:
            problem = str(error)
    title = next(
        (f"{row['name']}, layer {row.get('layer')}" for row in runs.iter_rows(named=True) if row["path"] == path), path
    )
    return opened, path, problem, title


@app.cell
def _(mo, opened, path, problem, title):
    encode = mo.ui.run_button(label=f"Encode {title}")
    missing = None
    if problem is not None:
        missing = mo.callout(mo.md(problem), kind="warn")
    elif opened is None:
        missing = mo.vstack(
            [mo.md(f"**{title}** has no codes yet. On a shell: `saev encode {path}`, or here:"), encode]
        )
    return encode, missing


@app.cell
def _(encode, mo, path, prepare, session, set_encoded):
    if encode.value:
        with mo.status.spinner("Encoding"):
            prepare(path, session)
        set_encoded(lambda n: n + 1)
    return


@app.cell
def _(RANGES, mo):
    # Made once, so that filters stay while dictionaries change.
    frequency, value = (
        mo.ui.range_slider(
            *RANGES[name], step=0.05, value=list(RANGES[name]), label=label, show_value=True, debounce=True
        )
        for name, label in (("frequency", "log10 frequency"), ("value", "log10 mean value"))
    )
    text = mo.ui.text(placeholder="number, class, trait, pair, name", label="search", debounce=300)
    class_ap = mo.ui.slider(0, 1, step=0.05, label="AP of its class, at least", show_value=True, debounce=True)
    trait_gain = mo.ui.slider(
        0, 0.6, step=0.02, label="AP of its trait above a constant score", show_value=True, debounce=True
    )
    p_family = mo.ui.checkbox(label="separates groups (p ≤ 0.05, family-wise)")
    stability = mo.ui.slider(0, 1, step=0.1, label="stability, at least", show_value=True, debounce=True)
    is_named = mo.ui.checkbox(label="with a name")
    return class_ap, frequency, is_named, p_family, stability, text, trait_gain, value


@app.cell
def _(mo, opened, plots):
    cells_chart = None
    if opened is not None:
        cells_chart = mo.ui.altair_chart(
            plots.density_chart(opened.latents), chart_selection="interval", legend_selection=False
        )
    return (cells_chart,)


@app.cell
def _(
    Filters, cells_chart, class_ap, filtered, frequency, is_named, mo, open_ended, opened, p_family, set_latent, set_tab, stability, table,
    text, trait_gain,
    value,
):  # fmt: skip
    chosen_latents = latent_table = None
    if opened is not None:
        _filters = Filters(
            open_ended("frequency", frequency.value), open_ended("value", value.value), class_ap.value, trait_gain.value,
            0.05 if p_family.value else None, stability.value, text.value, is_named.value,
        )  # fmt: skip
        chosen_latents = filtered(opened.latents, _filters)
        _brushed = cells_chart.value
        if len(_brushed) and len(_brushed) < len(cells_chart.dataframe):
            _ends = {
                name: (_brushed[f"low_{name}"].min(), _brushed[f"high_{name}"].max()) for name in ("frequency", "value")
            }
            chosen_latents = filtered(chosen_latents, Filters(**_ends))

        def choose_latent(rows):
            if len(rows):
                set_latent(int(rows["latent"][0]))
                set_tab("Latent")

        latent_table = table(
            chosen_latents, choose_latent, page_size=15, freeze_columns_left=["latent"],
            label=f"{len(chosen_latents):,} of {opened.codes.n_latents:,} latents; choose one:",
        )  # fmt: skip
    return chosen_latents, latent_table


@app.cell
def _(cards, chosen_latents, opened, previews):
    if opened is not None:
        previews.widget.data = cards.gallery_card(opened, chosen_latents)
    return


@app.cell
def _(follow, previews):
    follow(previews)
    return


@app.cell
def _(
    cells_chart, class_ap, frequency, is_named, latent_table, missing, mo, opened, p_family, previews, stability, text, title,
    trait_gain, value,
):  # fmt: skip
    if opened is None:
        latents_view = missing
    else:
        _known = {*opened.latents.columns}
        _controls = [text, frequency, value]
        _controls += [class_ap] if "class_ap" in _known else []
        _controls += [trait_gain] if "trait_ap" in _known else []
        _controls += [p_family] if "p_family" in _known else []
        _controls += [stability] if "stability" in _known else []
        _controls += [is_named] if "name" in _known else []
        _cells = mo.vstack([mo.md("Drag over cells to choose latents:"), cells_chart])
        latents_view = mo.vstack([
            mo.md(f"**{title}**"), mo.hstack([mo.vstack(_controls), _cells], widths=[1, 1.3], gap=2), latent_table,
            mo.md("**Six of them, from often to rarely firing**"), previews,
        ])  # fmt: skip
    return (latents_view,)


@app.cell
def _(first_latent, get_latent, mo, opened, set_latent):
    number = None
    if opened is not None:
        _latent = get_latent()
        number = mo.ui.number(
            0, opened.codes.n_latents - 1, step=1, value=first_latent(opened.latents) if _latent is None else _latent, label="latent",
            on_change=lambda one: set_latent(int(one)), debounce=True,
        )  # fmt: skip
    return (number,)


@app.cell
def _(cards, number, opened, top):
    if opened is not None:
        top.widget.data = cards.latent_card(opened, int(number.value))
    return


@app.cell
def _(follow, top):
    follow(top)
    return


@app.cell
def _(mo, number, opened):
    naming = None
    if opened is not None:
        naming = mo.md("{name} {note} {confidence}").batch(
            name=mo.ui.text(label=f"name of latent {int(number.value)}"), note=mo.ui.text(label="note"),
            confidence=mo.ui.number(0, 1, step=0.1, value=None, label="confidence"),
        ).form(submit_button_label="annotate", bordered=False)  # fmt: skip
    return (naming,)


@app.cell
def _(naming, number, opened, set_named):
    refusal = ""
    if naming is not None and naming.value is not None:
        try:
            opened.annotate(int(number.value), **naming.value)
            set_named(lambda n: n + 1)
        except ValueError as error:
            refusal = str(error)
    return (refusal,)


@app.cell
def _(missing, mo, naming, number, opened, refusal, said, title, top):
    latent_view = missing
    if opened is not None:
        latent_view = mo.vstack([
            mo.hstack([mo.md(f"**{title}**"), number], justify="start", gap=2), top, naming, said(refusal),
        ])  # fmt: skip
    return (latent_view,)


@app.cell
def _(get_example, mo, opened, set_example):
    image = None
    if opened is not None:
        _start = next(
            (label for label, one in opened.labels.items() if one == get_example()), next(iter(opened.labels))
        )
        image = mo.ui.dropdown(opened.labels, value=_start, searchable=True, label="image", on_change=set_example)
    return (image,)


@app.cell
def _(mo, session):
    uploaded = mo.ui.file(filetypes=[".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"], label="a photo of your own")
    if session.reader is None:
        uploaded = mo.md("For photos that were not recorded, start with the backbone: `vit=...`.")
    return (uploaded,)


@app.cell
def _(cards, image, mo, opened, picked, said, session, uploaded):
    refused = mo.md("")
    if opened is not None:
        try:
            if session.reader is not None and uploaded.value:
                with mo.status.spinner("Reading the photo"):
                    picked.widget.data = session.reader.card(opened, uploaded.contents(), uploaded.name())
            else:
                picked.widget.data = cards.image_card(opened, int(image.value))
        except ValueError as error:
            refused = mo.callout(said(str(error)), kind="warn")
    return (refused,)


@app.cell
def _(follow, picked):
    follow(picked)
    return


@app.cell
def _(image, missing, mo, opened, picked, refused, title, uploaded):
    image_view = missing
    if opened is not None:
        _choices = mo.hstack([mo.md(f"**{title}**"), image, uploaded], justify="start", gap=2, wrap=True)
        image_view = mo.vstack([_choices, refused, picked])
    return (image_view,)


@app.cell
def _(KINDS, mo, path, runs):
    _rows = runs.filter(runs["path"] != path).iter_rows(named=True)
    _others = {f"{row['name']} · {row['run']} · layer {row.get('layer')}": row["path"] for row in _rows}
    other_path = mo.ui.dropdown(_others, searchable=True, label="compare with")
    by = mo.ui.dropdown({"atoms, where they can be": None, "codes": True}, value="atoms, where they can be", label="by")
    where = mo.ui.multiselect(KINDS, label="latents")
    return by, other_path, where


@app.cell
def _(by, compare_with, mo, opened, other_path, session):
    comparison, other, comparison_text = None, None, "Choose a second dictionary."
    if opened is not None and other_path.value:
        with mo.status.spinner("Comparing all latents"):
            comparison, other, comparison_text = compare_with(opened, other_path.value, session, by.value)
    return comparison, comparison_text, other


@app.cell
def _(comparison, pl, set_pair, table, where):
    pair_table = None
    if comparison is not None:
        _rows = comparison.pairs
        _rows = _rows.filter(pl.col("where").is_in(where.value)) if where.value else _rows
        pair_table = table(
            _rows, lambda rows: set_pair((rows["latent"][0], rows["other"][0])) if len(rows) else None, page_size=12
        )
    return (pair_table,)


@app.cell
def _(cards, comparison, get_pair, opened, other, sides):
    if comparison is not None:
        sides.widget.data = cards.pair_card(opened, other, *(get_pair() or comparison.pairs.row(0)[:2]))
    return


@app.cell
def _(follow, other_path, sides):
    follow(sides, other_path.value)
    return


@app.cell
def _(by, comparison_text, missing, mo, opened, other_path, pair_table, said, sides, title, where):
    compare_view = missing
    if opened is not None:
        _choices = mo.hstack([mo.md(f"**{title}**"), other_path, by, where], justify="start", gap=2, wrap=True)
        _shown = [mo.md("Choose a row:"), pair_table, sides] if pair_table is not None else []
        compare_view = mo.vstack([_choices, said(comparison_text), *_shown])
    return (compare_view,)


@app.cell
def _(get_tab, mo, set_tab):
    tabs = mo.ui.tabs(
        dict.fromkeys(("Runs", "Latents", "Latent", "Image", "Compare"), ""), value=get_tab(), on_change=set_tab
    )
    return (tabs,)


@app.cell
def _(compare_view, escape, image_view, latent_view, latents_view, mo, runs_view, session, tabs):
    _views = {
        "Runs": runs_view,
        "Latents": latents_view,
        "Latent": latent_view,
        "Image": image_view,
        "Compare": compare_view,
    }
    _credits = session.images.credits() if session.images is not None else ""
    mo.vstack([tabs, _views[tabs.value], mo.Html(f"<small>{escape(_credits)}</small>")])
    return


if __name__ == "__main__":
    app.run()
