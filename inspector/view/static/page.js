// Runs once when the page opens.
() => {
  // An open sidebar would cover the whole of a phone's screen.
  const open = document.querySelector('.sidebar.open .toggle-button');
  if (open && window.innerWidth < 769) open.click();

  // A file that is dropped anywhere on the page is opened as by the button of the Runs tab. Left to
  // itself, the browser would leave the page for the file.
  const hasFiles = event => Array.from(event.dataTransfer?.types || []).includes('Files');
  const input = () => document.querySelector('input[type=file]#run-upload, #run-upload input[type=file]');
  const tab = () => Array.from(document.querySelectorAll('#tabs [role=tab], #tabs .overflow-dropdown button'))
    .find(each => each.textContent.trim() === 'Runs');
  const mark = on => document.body.classList.toggle('dropping', on);
  window.addEventListener('dragover', event => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    mark(true);
  });
  window.addEventListener('dragleave', event => { if (!event.relatedTarget) mark(false); });
  window.addEventListener('drop', event => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    mark(false);
    const dropped = event.dataTransfer.files;
    const give = left => {
      if (input()) {
        input().files = dropped;
        input().dispatchEvent(new Event('change', {bubbles: true}));
      } else if (left) {
        if (left === 20) tab()?.click();  // a tab's parts are made when it is first opened
        setTimeout(give, 100, left - 1);
      }
    };
    give(20);
  });
}
