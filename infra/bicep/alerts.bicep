// Alert rules by e-mail, on the metrics that the gateway exports (docs/telemetry.md).

@description('Resource id of the Application Insights component.')
param componentId string

@description('Resource id of the Log Analytics workspace.')
param workspaceId string

@description('Azure region.')
param location string

@description('Tags of every resource.')
param tags object

@description('Prefix of the rules\' names.')
@maxLength(60)
param namePrefix string

@description('E-mail address that gets the alerts.')
param email string

@description('Calls per thousand that may fail: the error budget.')
@minValue(1)
@maxValue(500)
param failedCallsPerThousand int

@description('Seconds to the first token of a stream, on average, above which it is slow.')
@minValue(1)
@maxValue(600)
param slowFirstTokenSeconds int

// Severity: 0 critical, 1 error, 2 warning. A rule fires for every row of its query, by `dimension` if it has one.
var rules = [
  {
    name: 'error-budget-fast'
    title: 'The error budget of a month would be gone in two days'
    about: 'In the last hour, more than 14 times as many calls failed as the error budget allows, in the gateway or in its backends.'
    severity: 1
    window: 'PT1H'
    frequency: 'PT5M'
    dimension: ''
    query: replace(
      replace(
        '''
customMetrics
| where name == 'gen_ai.client.operation.duration'
| extend failure = tostring(customDimensions['error.type'])
| summarize calls = sum(valueCount), failed = sumif(valueCount, failure startswith '5' or failure == 'cut')
| where calls >= 50 and failed * 1000.0 > calls * BUDGET * TIMES
''',
        'BUDGET',
        string(failedCallsPerThousand)
      ),
      'TIMES',
      '14'
    )
  }
  {
    name: 'error-budget-slow'
    title: 'The error budget of a month would be gone in five days'
    about: 'In the last six hours, more than 6 times as many calls failed as the error budget allows.'
    severity: 2
    window: 'PT6H'
    frequency: 'PT15M'
    dimension: ''
    query: replace(
      replace(
        '''
customMetrics
| where name == 'gen_ai.client.operation.duration'
| extend failure = tostring(customDimensions['error.type'])
| summarize calls = sum(valueCount), failed = sumif(valueCount, failure startswith '5' or failure == 'cut')
| where calls >= 100 and failed * 1000.0 > calls * BUDGET * TIMES
''',
        'BUDGET',
        string(failedCallsPerThousand)
      ),
      'TIMES',
      '6'
    )
  }
  {
    name: 'region-fails'
    title: 'A backend fails'
    about: 'A fifth or more of the tries on a backend failed. Other backends serve its calls; see docs/operate.md.'
    severity: 2
    window: 'PT15M'
    frequency: 'PT5M'
    dimension: 'backend'
    query: '''
customMetrics
| where name == 'tollgate.attempts'
| extend backend = tostring(customDimensions['tollgate.backend']), result = tostring(customDimensions['tollgate.result'])
| summarize tries = sum(value), failed = sumif(value, result in ('failed', 'timeout', 'unreachable')) by backend
| where tries >= 10 and failed >= tries * 0.2
'''
  }
  {
    name: 'region-refuses'
    title: 'A backend refuses the gateway'
    about: 'A backend answers 401, 403 or DeploymentNotFound: check the role assignment of the gateway\'s identity, the name of the deployment and the network rules.'
    severity: 1
    window: 'PT15M'
    frequency: 'PT5M'
    dimension: 'backend'
    query: '''
customMetrics
| where name == 'tollgate.attempts'
| extend backend = tostring(customDimensions['tollgate.backend']), result = tostring(customDimensions['tollgate.result'])
| where result == 'refused'
| summarize refused = sum(value) by backend
'''
  }
  {
    name: 'throttled'
    title: 'A backend is throttled most of the time'
    about: 'Half or more of the tries on a backend got a 429: it needs more quota, or its callers need limits.'
    severity: 2
    window: 'PT30M'
    frequency: 'PT10M'
    dimension: 'backend'
    query: '''
customMetrics
| where name == 'tollgate.attempts'
| extend backend = tostring(customDimensions['tollgate.backend']), result = tostring(customDimensions['tollgate.result'])
| summarize tries = sum(value), throttled = sumif(value, result == 'throttled') by backend
| where tries >= 20 and throttled >= tries * 0.5
'''
  }
  {
    name: 'slow'
    title: 'First tokens of a model are slow'
    about: 'The average time to the first token of a model\'s streams was above slowFirstTokenSeconds.'
    severity: 2
    window: 'PT30M'
    frequency: 'PT10M'
    dimension: 'model'
    query: replace(
      '''
customMetrics
| where name == 'gen_ai.server.time_to_first_token'
| extend model = tostring(customDimensions['gen_ai.request.model'])
| summarize streams = sum(valueCount), seconds = sum(valueSum) / sum(valueCount) by model
| where streams >= 20 and seconds > SLOW
''',
      'SLOW',
      string(slowFirstTokenSeconds)
    )
  }
  {
    name: 'safe-mode'
    title: 'Limits are decided without the tables'
    about: 'An instance could not reach the table of limits for ten minutes: it applies a share of its callers\' limits.'
    severity: 2
    window: 'PT15M'
    frequency: 'PT5M'
    dimension: ''
    query: '''
customMetrics
| where name == 'tollgate.safe_mode' and value > 0
| summarize minutes = dcount(bin(timestamp, 1m)) by cloud_RoleInstance
| where minutes >= 10
'''
  }
  {
    name: 'usage-lost'
    title: 'Usage rows were given up'
    about: 'Rows of the ledger were dropped, because they could not be written for too long: the usage of those calls is not on record.'
    severity: 1
    window: 'PT15M'
    frequency: 'PT5M'
    dimension: ''
    query: '''
customMetrics
| where name == 'tollgate.ledger.lost'
| summarize rows = sum(value)
| where rows > 0
'''
  }
  {
    name: 'usage-waits'
    title: 'Usage rows wait for the table'
    about: 'More than a thousand rows of one instance\'s ledger wait for the table.'
    severity: 2
    window: 'PT15M'
    frequency: 'PT5M'
    dimension: ''
    query: '''
customMetrics
| where name == 'tollgate.ledger.backlog'
| summarize rows = max(value) by cloud_RoleInstance
| where rows > 1000
'''
  }
  {
    name: 'silent'
    title: 'The gateway sends no telemetry'
    about: 'Nothing arrived for ten minutes, though the timer runs every five: the gateway does not run, or cannot send.'
    severity: 1
    window: 'PT10M'
    frequency: 'PT5M'
    dimension: ''
    query: '''
union customMetrics, requests, traces
| summarize rows = count()
| where rows == 0
'''
  }
  {
    name: 'daily-cap'
    title: 'The daily cap of telemetry is reached'
    about: 'Log Analytics drops the rest of the day, what these alerts read included: raise telemetryDailyQuotaGb or keep fewer traces.'
    severity: 1
    window: 'PT1H'
    frequency: 'PT15M'
    dimension: ''
    query: '''
_LogOperation
| where Category =~ 'Ingestion' and Detail has 'OverQuota'
| summarize messages = count()
| where messages > 0
'''
  }
]

resource group 'Microsoft.Insights/actionGroups@2023-01-01' = {
  name: '${namePrefix}-operators'
  location: 'Global'
  tags: tags
  properties: {
    groupShortName: 'tollgate'
    enabled: true
    emailReceivers: [
      {
        name: 'operators'
        emailAddress: email
        useCommonAlertSchema: true
      }
    ]
  }
}

resource alerts 'Microsoft.Insights/scheduledQueryRules@2026-03-01' = [
  for rule in rules: {
    name: '${namePrefix}-${rule.name}'
    location: location
    tags: tags
    kind: 'LogAlert'
    properties: {
      displayName: rule.title
      description: rule.about
      severity: rule.severity
      enabled: true
      scopes: [rule.name == 'daily-cap' ? workspaceId : componentId]
      skipQueryValidation: true // in a new workspace the tables do not exist before the first row
      evaluationFrequency: rule.frequency
      windowSize: rule.window
      autoMitigate: true
      criteria: {
        allOf: [
          {
            query: rule.query
            timeAggregation: 'Count'
            operator: 'GreaterThan'
            threshold: 0
            dimensions: empty(rule.dimension)
              ? []
              : [
                  {
                    name: rule.dimension
                    operator: 'Include'
                    values: ['*']
                  }
                ]
            failingPeriods: {
              numberOfEvaluationPeriods: 1
              minFailingPeriodsToAlert: 1
            }
          }
        ]
      }
      actions: {
        actionGroups: [group.id]
      }
    }
  }
]

@description('Resource id of the action group.')
output actionGroupId string = group.id
