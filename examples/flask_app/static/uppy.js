"use strict";

const uploads = "incoming/frontend/uploads";
const uppy = new Uppy.Uppy();
uppy.use(Uppy.Dashboard, { inline: true, target: "#uppy", width: "100%" });
uppy.use(Uppy.Tus, { endpoint: uploads });

/** Each file gets a ticket of the app's when it is its turn. */
uppy.addPreProcessor(async (ids) => {
  for (const id of ids) {
    const answer = await fetch("tickets", { method: "POST" });
    if (!answer.ok) throw new Error("the app gives no ticket");
    const { ticket } = await answer.json();
    uppy.setFileState(id, { tus: { endpoint: `${uploads}?ticket=${ticket}` } });
  }
});
