<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>Send a file</title>
  <link rel="icon" href="data:,">
  <link rel="stylesheet" href="static/style.css">
  <script src="incoming/frontend/incoming.js" defer></script>
  <script src="static/app.js" defer></script>
</head>
<body>
<main data-ticket="{{ticket}}">
  <h1>Send a file</h1>
  <p class="lead">Of any size. If the connection breaks or you close this page, choose the same file again and it goes
    on where it stopped.</p>

  <section class="card" aria-label="Upload">
    <input class="visually-hidden" type="file" id="picker">
    <label class="drop" for="picker" id="choose"><span><strong>Choose a file</strong></span>
      <span class="quiet small">The upload starts at once.</span></label>

    <div id="upload" hidden>
      <div class="file uploading">
        <span class="kind" id="kind" aria-hidden="true"></span>
        <div class="about">
          <p class="name" id="name"></p>
          <p class="state" id="state" role="status"></p>
        </div>
        <div class="buttons">
          <button type="button" class="danger" id="cancel">Cancel</button>
          <button type="button" id="again">Send another</button>
        </div>
      </div>
      <div class="bar" id="bar" role="progressbar" aria-labelledby="name"
           aria-valuemin="0" aria-valuemax="100" aria-valuenow="0"></div>
    </div>
  </section>

  <section class="card" id="files" aria-label="Files">
    <h2>Files</h2>
    % if not files:
    <p class="quiet">Nothing here yet.</p>
    % end
    <ul class="files">
      % for file in files:
      <li class="file">
        <span class="kind" aria-hidden="true">{{file.kind}}</span>
        <div class="about">
          <p class="name"><a href="files/{{file.address}}" download>{{file.name}}</a></p>
          <p class="state">{{file.size}}</p>
        </div>
      </li>
      % end
    </ul>
  </section>
</main>
</body>
</html>
