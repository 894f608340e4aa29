/** Something to begin with: four subjects, and drawn shapes for models that read images. */

export const TEXTS = [
  "The cat is asleep on the sofa.",
  "A kitten naps on the couch.",
  "Our dog loves long walks in the park.",
  "How do I reset my password?",
  "I cannot log in to my account.",
  "The sign-in page rejects my credentials.",
  "Bake the loaf for forty minutes.",
  "A simple recipe for sourdough bread.",
  "The rocket reached orbit in nine minutes.",
  "Astronauts docked with the space station.",
];
export const QUERY = "trouble signing in";

export const IMAGE_TEXTS = ["a red circle", "a blue square", "a green triangle"];
export const IMAGE_QUERY = "something red";

const SIDE = 224;
const SHAPES = [
  ["red circle.png", "#d92d20", (pen) => pen.arc(112, 112, 72, 0, 2 * Math.PI)],
  ["blue square.png", "#1d4ed8", (pen) => pen.rect(46, 46, 132, 132)],
  ["green triangle.png", "#15803d", (pen) => polygon(pen, [112, 36, 188, 176, 36, 176])],
];

/** → items */
export function drawnImages() {
  return SHAPES.map(([label, color, outline]) => {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = SIDE;
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#ffffff";
    pen.fillRect(0, 0, SIDE, SIDE);
    pen.fillStyle = color;
    pen.beginPath();
    outline(pen);
    pen.fill();
    return { label, image: canvas.toDataURL("image/png") };
  });
}

function polygon(pen, places) {
  for (let i = 0; i < places.length; i += 2) pen.lineTo(places[i], places[i + 1]);
}
