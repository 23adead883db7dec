/** Creates SVG elements for the timeline and the charts. */

const NAMESPACE = "http://www.w3.org/2000/svg";

/** An element with attributes and children; a child may be text. */
export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
