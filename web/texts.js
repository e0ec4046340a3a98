// The tab's texts in the languages of locales/. {name} is filled in.

const TEXTS = {
  en: {
    "tab.tooltip": "Throughline: runs and their segments",
    run: "Run",
    refresh: "Look at the disk again",
    strip: "Segments of the run",
    said: "What the sampler said last",
    summary: "{made} of {all} segments finished, {seconds} s of sampling",
    empty: "No runs yet. Put a Sample long video node into the graph and press Run.",
    "empty.run": "Nothing of “{run}” is on disk yet. Press Run to make it.",
    queued: "queued",
    redo: "Redo",
    "redo.title": "Render segment {number} again with another seed (take {take}).",
    "redo.followers": "What continues from it is rendered again too: {numbers}.",
    "redo.no_sampler":
      "To redo a segment, open the graph whose Sample long video node has this run name.",
    "redo.early": "This segment is not finished yet.",
    "redo.linked": "The retakes input of the sampler is connected: redo segments there.",
    "redo.seed_changes":
      "Set control after generate to fixed on the sampler: its seed changes with every run, so " +
      "redoing one segment would render all of them.",
    back: "Go back",
    "back.title": "Use take {take} of segment {number} again. It is not rendered when it is on disk.",
    "segment.label": "Segment {number}: {status}",
    "segment.shot": "Shot {shot}",
    "segment.seconds": "{seconds} s",
    "segment.seed": "seed {seed}",
    "segment.take": "take {take}",
    "segment.first": "first take",
    "status.done": "done",
    "status.reused": "reused",
    "status.running": "running",
    "status.waiting": "waiting",
    "status.interrupted": "interrupted",
    "status.failed": "failed",
    "status.changed": "changed",
    "status.damaged": "damaged",
  },
  zh: {
    "tab.tooltip": "Throughline：运行及其片段",
    run: "运行",
    refresh: "重新读取磁盘",
    strip: "该运行的片段",
    said: "采样节点的最后消息",
    summary: "已完成 {made} / {all} 个片段，采样用时 {seconds} 秒",
    empty: "还没有运行。请在工作流中添加“长视频采样”节点并点击运行。",
    "empty.run": "磁盘上还没有“{run}”的内容。点击运行即可生成。",
    queued: "已加入队列",
    redo: "重做",
    "redo.title": "用另一个种子重新渲染片段 {number}（第 {take} 次重拍）。",
    "redo.followers": "接续于它的片段也会重新渲染：{numbers}。",
    "redo.no_sampler": "要重做片段，请打开其采样节点使用此运行名称的工作流。",
    "redo.early": "该片段尚未完成。",
    "redo.linked": "采样节点的“重拍”输入已连接：请在那里重做片段。",
    "redo.seed_changes":
      "请将采样节点的“生成后控制”设为 fixed：种子每次运行都会改变，重做一个片段会重新渲染全部片段。",
    back: "退回",
    "back.title": "重新使用片段 {number} 的第 {take} 次重拍。若仍在磁盘上则无需渲染。",
    "segment.label": "片段 {number}：{status}",
    "segment.shot": "镜头 {shot}",
    "segment.seconds": "{seconds} 秒",
    "segment.seed": "种子 {seed}",
    "segment.take": "重拍 {take}",
    "segment.first": "首次",
    "status.done": "完成",
    "status.reused": "沿用",
    "status.running": "渲染中",
    "status.waiting": "等待",
    "status.interrupted": "已中断",
    "status.failed": "失败",
    "status.changed": "已更改",
    "status.damaged": "损坏",
  },
  ja: {
    "tab.tooltip": "Throughline：ランとセグメント",
    run: "ラン",
    refresh: "ディスクを読み直す",
    strip: "このランのセグメント",
    said: "サンプラーの最後のメッセージ",
    summary: "{all} セグメント中 {made} 完了、サンプリング {seconds} 秒",
    empty: "ランはまだありません。「長尺ビデオサンプリング」ノードを追加して実行してください。",
    "empty.run": "「{run}」はまだディスクにありません。実行すると作成されます。",
    queued: "キューに追加済み",
    redo: "撮り直し",
    "redo.title": "セグメント {number} を別のシードで再レンダリングします（テイク {take}）。",
    "redo.followers": "これに続くセグメントも再レンダリングされます：{numbers}。",
    "redo.no_sampler":
      "撮り直すには、このラン名のサンプラーノードがあるワークフローを開いてください。",
    "redo.early": "このセグメントはまだ完了していません。",
    "redo.linked": "サンプラーの「撮り直し」入力が接続されています。接続元で変更してください。",
    "redo.seed_changes":
      "サンプラーの「生成後の制御」を fixed にしてください。シードが毎回変わるため、1 つの撮り直しで" +
      "全セグメントが再レンダリングされます。",
    back: "戻す",
    "back.title":
      "セグメント {number} のテイク {take} に戻します。ディスクにあれば再レンダリングしません。",
    "segment.label": "セグメント {number}：{status}",
    "segment.shot": "ショット {shot}",
    "segment.seconds": "{seconds} 秒",
    "segment.seed": "シード {seed}",
    "segment.take": "テイク {take}",
    "segment.first": "最初のテイク",
    "status.done": "完了",
    "status.reused": "再利用",
    "status.running": "実行中",
    "status.waiting": "待機中",
    "status.interrupted": "中断",
    "status.failed": "失敗",
    "status.changed": "変更あり",
    "status.damaged": "破損",
  },
};

export const LANGUAGES = Object.keys(TEXTS);

/** The texts of a locale such as "zh-TW", English where there are none: (key, values) => text. */
export function translator(locale) {
  const language = String(locale).toLowerCase().split(/[-_]/)[0];
  const texts = TEXTS[language] ?? TEXTS.en;
  return (key, values = {}) =>
    (texts[key] ?? TEXTS.en[key] ?? key).replace(/\{(\w+)\}/g, (whole, name) =>
      name in values ? String(values[name]) : whole,
    );
}
