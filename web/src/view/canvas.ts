// Drawing many small cells, and finding the one under a pointer.

import { css, diverging, type RGB, type ScaleKind, scaled, type Theme, textOn } from "../core/colour.ts";
import { number } from "../core/format.ts";

/** A canvas of this size in CSS pixels, sharp on every screen, empty. */
export function sheet(canvas: HTMLCanvasElement, width: number, height: number): CanvasRenderingContext2D | null {
  const ratio = Math.max(1, window.devicePixelRatio || 1);
  const [w, h] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
  }
  const context = canvas.getContext("2d");
  context?.setTransform(ratio, 0, 0, ratio, 0, 0);
  context?.clearRect(0, 0, width, height);
  return context;
}

export interface Grid {
  columns: number;
  rows: number;
  /** Of one cell, the gap included. */
  width: number;
  height: number;
}

/** Cells for so many numbers in this width: one row for a few, a block of small ones for many. */
export function gridFor(count: number, width: number): Grid {
  const columns = count <= 8 ? Math.max(1, count) : evenly(count, count <= 32 ? 8 : Math.ceil(Math.sqrt(2.4 * count)));
  const rows = Math.ceil(count / columns);
  const across = Math.min(width / columns, 64);
  return {
    columns,
    rows,
    width: across,
    height: count <= 8 ? Math.max(18, Math.min(26, across)) : Math.max(2.5, Math.min(across, 18)),
  };
}

/** The number of columns at or just below the ideal that leaves no gap in the last row, where there is one. */
function evenly(count: number, ideal: number): number {
  for (let columns = ideal; columns > 0.6 * ideal; columns--) if (count % columns === 0) return columns;
  return ideal;
}

const ROOM_FOR_DIGITS = 30;

export function drawCells(
  canvas: HTMLCanvasElement,
  grid: Grid,
  count: number,
  value: (i: number) => number,
  look: { largest: number; kind: ScaleKind; theme: Theme; chosen: number },
): void {
  const { columns, rows, width, height } = grid;
  const context = sheet(canvas, columns * width, rows * height);
  if (!context) return;
  const gap = width > 5 ? 1 : width > 3 ? 0.5 : 0;
  const digits = width >= ROOM_FOR_DIGITS && height >= 16;
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (let i = 0; i < count; i++) {
    const [x, y] = [(i % columns) * width, Math.floor(i / columns) * height];
    const own = value(i);
    const colour = diverging(scaled(own, look.largest, look.kind), look.theme);
    fill(context, x, y, width - gap, height - gap, colour, look.theme);
    if (digits) {
      context.fillStyle = colour ? css(textOn(colour, look.theme)) : outline(look.theme);
      write(context, own, x + (width - gap) / 2, y + (height - gap) / 2 + 0.5, width - 6, width >= 46 ? 12 : 10.5);
    }
  }
  if (look.chosen >= 0 && look.chosen < count) {
    const [x, y] = [(look.chosen % columns) * width, Math.floor(look.chosen / columns) * height];
    mark(context, x, y, width - gap, height - gap, look.theme);
  }
}

const SMALLEST = 9;

/** The number with as many digits as there is room for, in smaller and at last in narrower letters if it must be. */
function write(
  context: CanvasRenderingContext2D,
  value: number,
  x: number,
  y: number,
  room: number,
  size: number,
): void {
  const forms = [3, 2, 1].flatMap((digits) => {
    const text = number(value, digits);
    return Math.abs(value) < 1 ? [text, text.replace("0.", ".")] : [text];
  });
  const shortest = value.toExponential(0).replace(/-/g, "−").replace("+", "");
  const text = [size, SMALLEST].flatMap((pixels) => [...forms, shortest].map((form) => [pixels, form] as const));
  const fitting = text.find(([pixels, form]) => {
    context.font = `${pixels}px system-ui, sans-serif`;
    return context.measureText(form).width <= room;
  });
  context.fillText(fitting?.[1] ?? shortest, x, y, room);
}

function fill(
  context: CanvasRenderingContext2D,
  x: number,
  y: number,
  width: number,
  height: number,
  colour: RGB | null,
  theme: Theme,
): void {
  if (colour) {
    context.fillStyle = css(colour);
    context.fillRect(x, y, width, height);
    return;
  }
  context.strokeStyle = outline(theme);
  context.lineWidth = 1;
  context.strokeRect(x + 0.5, y + 0.5, Math.max(0, width - 1), Math.max(0, height - 1));
}

export function mark(
  context: CanvasRenderingContext2D,
  x: number,
  y: number,
  width: number,
  height: number,
  theme: Theme,
): void {
  context.strokeStyle = outline(theme);
  const isSmall = width < 12;
  context.lineWidth = isSmall ? 1.5 : 2;
  const inset = isSmall ? -1 : 1;
  context.strokeRect(x + inset, y + inset, Math.max(1, width - 2 * inset), Math.max(1, height - 2 * inset));
}

export function outline(theme: Theme): string {
  return theme === "light" ? "#111216" : "#f6f5f1";
}

/** Tells which cell was pressed or is pointed at; −1 for none. `title` is shown beside the pointer. */
export function picking(
  find: (x: number, y: number) => number,
  picked: (index: number) => void,
  title: (index: number) => string,
) {
  return (element: HTMLElement) => {
    const indexAt = (event: MouseEvent) => {
      const box = element.getBoundingClientRect();
      return find(event.clientX - box.left, event.clientY - box.top);
    };
    const press = (event: MouseEvent) => {
      const index = indexAt(event);
      if (index >= 0) picked(index);
    };
    const hover = (event: MouseEvent) => {
      const index = indexAt(event);
      element.title = index < 0 ? "" : title(index);
    };
    element.addEventListener("click", press);
    element.addEventListener("pointermove", hover);
    return () => {
      element.removeEventListener("click", press);
      element.removeEventListener("pointermove", hover);
    };
  };
}
