// What a user of the npm package `dvid` does: list, create, read. One argument: what the server holds (JSON).
"use strict";
const DVID = require("dvid");

async function session({ host, root, child, raw }) {
  const api = new DVID({ host, username: "tester", application: "session" });
  const reposBefore = await api.reposInfo();
  await api.createRepo({ alias: "second", description: "made by npm dvid" });
  const reposAfter = await api.reposInfo();
  const made = Object.keys(reposAfter).find((uuid) => reposAfter[uuid].Alias === "second");
  const instance = { typename: "uint8blk", dataname: "gray", versioned: "1" };
  await api.repo({ uuid: made, endpoint: "instance", method: "post", data: instance });
  return {
    reposBefore,
    made: await api.repo({ uuid: made, endpoint: "info" }),
    branch: await api.repo({ uuid: root, endpoint: "branch-versions/master" }),
    server: await api.serverInfo(),
    types: await api.serverTypes(),
    compiledTypes: await api.serverCompiledTypes(),
    load: await api.load(),
    info: await api.node({ uuid: root, endpoint: "raw/info" }),
    commit: await api.node({ uuid: root, endpoint: "commit" }),
    voxels: Array.from(await api.node({ uuid: child, endpoint: raw }), (c) => c.charCodeAt(0)),
    missing: await api.node({ uuid: root, endpoint: "nothing/info" }).catch((error) => error.response.status),
  };
}

session(JSON.parse(process.argv[2])).then(
  (report) => process.stdout.write(JSON.stringify(report)),
  (error) => {
    process.stderr.write(`${error.stack}\n`);
    process.exitCode = 1;
  },
);
