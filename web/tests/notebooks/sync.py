import marimo

app = marimo.App()


@app.cell
def _():
    import golden
    import marimo as mo

    player = mo.ui.anywidget(golden.word().tape.show())
    player
    return mo, player


@app.cell
def _(mo, player):
    mo.md(f"python sees step {player.cursor} side {player.side} number [{player.selection}]")


@app.cell
def _(mo, player):
    def jump(_):
        player.cursor, player.side, player.selection = 3, "B", "dh,2"

    mo.ui.button(label="jump from python", on_click=jump)


if __name__ == "__main__":
    app.run()
