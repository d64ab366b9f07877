// Sphinx's search ranks by the best word of a page. This also counts the words in its title, so that
// "L-BFGS Flax" finds "Flax Linen: L-BFGS and Adam" first.
const letters = (text) => text.toLowerCase().replaceAll("l-bfgs", "lbfgs").replace(/[^a-z0-9 ]/g, " ");

var Scorer = {
  score: ([docname, title, anchor, descr, score]) => {
    const query = letters(new URLSearchParams(window.location.search).get("q") ?? "");
    const words = ` ${letters(title)} `;
    return score + 6 * query.split(/ +/).filter((word) => word && words.includes(` ${word} `)).length;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
